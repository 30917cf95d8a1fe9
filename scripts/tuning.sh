#!/usr/bin/env bash
# The pilot runs behind the training budget of task=synthetic (configs/task/synthetic.yaml), all on validation
# scores at noise 0.5. They chose one learning rate for all models and the offset scale of f and g.
#   usage: scripts/tuning.sh [RESULTS_DIR]        about an hour and a half on two cores; `indattn show` lists the outcome
set -euo pipefail
export INDATTN_RESULTS="${1:-results/tuning}"
sweep=(hydra/launcher=joblib noise=0.5 figures=false)

indattn train -m "${sweep[@]}" training.steps=1200 training.decay_fraction=0 training.lr=0.001,0.002 model.offset_scale=10
indattn train -m "${sweep[@]}" training.steps=1200 training.decay_fraction=0 training.lr=0.002 model=standard,cross
indattn train -m "${sweep[@]}" training.steps=1200 training.decay_fraction=0 training.lr=0.001 model.offset_scale=1
indattn train -m "${sweep[@]}" training.steps=1200 training.decay_fraction=0 training.lr=0.002 training.batch_size=32 \
  model.offset_scale=10
indattn train -m "${sweep[@]}" training.steps=1200 training.decay_fraction=0.25 training.lr=0.001,0.0015 \
  model.offset_scale=10 seed=0,1
indattn train -m "${sweep[@]}" training.steps=800 training.decay_fraction=0.25 training.lr=0.002 model.offset_scale=3

# The same three rates for every model, at the budget that all share.
indattn train -m "${sweep[@]}" training.lr=0.001,0.0015,0.002 \
  model=indirect,indirect_gaussian,indirect_fourier,standard,cross
