"""The verbs of the command and what their help says. Imports nothing, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GROUPS", "HELP", "VERBS", "Verb"]


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        function: what it runs, ``module:function``.
        summary, usage: its help.
        positional: the key that words without ``=`` go to.
        where: keys that lie below ``where`` in its configuration, since config groups have the names of some.
        output: the key that words behind ``-o`` go to.
        words: what completion offers.
        flags: keys that may also be written as options: ``format`` as ``--format csv`` or ``--format=csv``, and
            ``dry_run``, if it is true or false by default, as ``--dry-run``.
        rest: the key of a list that takes every KEY=VALUE whose key is not the verb's own.
    """

    function: str
    summary: str
    usage: str
    positional: str | None = None
    where: tuple[str, ...] = ()
    output: str | None = None
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rest: str | None = None


FILTERS = ("task", "model", "noise", "seed", "state")
"""Keys by which a verb chooses runs."""

VERBS = {
    "train": Verb(
        "indattn.training:run",
        "train a model on a task at a noise level, test it, draw its curves",
        """usage: indattn train [KEY=VALUE ...]
       indattn train -m KEY=A,B,C [KEY=VALUE ...]        a sweep over all combinations

examples
  indattn train                                           indirect attention, synthetic task, noise 0
  indattn train task=synthetic noise=0.5                  ... at half of the worst misalignment
  indattn train model=standard noise=0.5 seed=3           another model, another seed
  indattn train task=sorting model.self_attention=false   the paper's task, one of its readings
  indattn train task=sorting task.train_size=null         fresh examples instead of 1000 fixed pairs
  indattn train task=cross_modal_retrieval noise=0.3      pictures and texts, 30% of the training pairs wrong
  indattn train task=cross_modal_retrieval task.data=pairs.csv task.images=photos    your own
  indattn train -m model=indirect,standard,cross noise=0,0.5,1 seed=0,1,2 hydra/launcher=joblib
  indattn train experiment=figure2 hydra/launcher=joblib  a whole figure of the paper (hydra/launcher=slurm: as jobs)
  torchrun --nproc-per-node 2 -m indattn train ...        one run in two processes; training.accumulate=4: in four parts

The run's folder is named by what it is: results/runs/<task>/<model>/noise-<x>/seed-<k>/<hash>. The same command
again says that it is done; after an interruption it resumes. force=true trains anew.

keys (all of them: indattn train --cfg job)
  noise=0..1  seed=0  training.steps=...  training.lr=...  training.keep_checkpoints=[0,200]
  task.*  model.*  device=auto|cpu|cuda  threads=auto|N  results_dir=results  force=true  progress=auto|true|false""",
    ),
    "evaluate": Verb(
        "indattn.evaluation:run",
        "score finished runs on other noise levels, kinds, lengths, test sets and corpora",
        """usage: indattn evaluate RUN [RUN ...] [KEY=VALUE ...]

examples
  indattn evaluate results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d
  indattn evaluate RUN noise=[0,0.25,0.5,0.75,1]          trained at one level, tested at five
  indattn evaluate RUN kind=[shift,shuffle] test_seed=[0,1,2] format=csv
  indattn evaluate RUN n=[16,32,64,128]                   lookup: longer sequences than it was trained on
  indattn evaluate RUN data=tuxpaint                      retrieval: pictures of another kind
  indattn evaluate RUN data=human noise=0 skip=[0,-4,-8]  alignment: human speech, words less and less left out
  indattn evaluate RUN split=validation skip=[0,-1,-2]    scores to choose by

Each score of the test is also kept in the run's folder, under evaluations/.

keys
  noise=LEVEL|[...]  kind=KIND|[...]  test_seed=N|[...]  device=auto  threads=auto  format=table|csv|json
  split=test|validation
  data=CORPUS|PATH  images=FOLDER  (retrieval)
  data=CORPUS|PATH  skip=X|[...]   (alignment; below a smaller skip fewer words are held not to be said)""",
        "run",
        flags=("format",),
    ),
    "reproduce": Verb(
        "indattn.reproduce:run",
        "make the runs of experiments as far as they are missing, then their tables, figures and claims",
        """usage: indattn reproduce EXPERIMENT ... [KEY=VALUE ...]
       indattn reproduce all

Says which runs are there, in folders or in the committed record, which are missing, and how long they will take by
those already timed; makes them in parallel, one thread each; adds them to the record; draws tables and figures and
judges the claims. Killed or given twice at once, it loses nothing and does nothing twice. A run that fails is tried
once more, then listed.

examples
  indattn reproduce noise_curve --dry-run                 the plan alone
  indattn reproduce noise_curve                           150 runs
  indattn reproduce alignment --profile full              75 runs, where the standard profile has 45
  indattn reproduce figure2 alignment profile=quick       much smaller sweeps, into results/quick
  indattn reproduce noise_curve seed=0,1 model=indirect,cross      part of it
  indattn reproduce noise_curve --fresh                   again what was made by other code than is here
  indattn reproduce all                                   the paper's figures, the real tasks (make reproduce-all)
  indattn reproduce all profile=full                      everything, ablations and all readings too
  indattn reproduce all hydra/launcher=submitit_slurm     on a cluster; needs pip install 'indattn[slurm]'

keys
  profile=standard|full|quick  dry_run=true  fresh=true  jobs=auto|N  progress=auto|true|false  results_dir=results
  and every key of indattn train, in place of an axis or beside it; hydra/launcher=...  hydra.launcher.*""",
        "experiments",
        words=("all",),
        flags=("dry_run", "fresh", "profile", "jobs"),
        rest="override",
    ),
    "claims": Verb(
        "indattn.claims:run",
        "what became of each claim of the paper: holds, fails or undecided, with the numbers",
        """usage: indattn claims [NAME ...] [KEY=VALUE ...]

Applies the rule of each claim (configs/claims/*.yaml) to the runs, records and tables there are, writes
results/ledger.json and results/tables/claims.csv, and prints a line each. A mean over seeds is tested by flipping the
signs of paired differences, corrected for all claims of its experiment; fewer than ten seeds decide nothing. The ledger
keeps since when each rule is applied, and says when one changed after its data was there.

examples
  indattn claims                                  a line each
  indattn claims lemma_2 gamma_as_printed         all there is to say of two
  indattn claims verdict=undecided                what is not settled, and what would settle it
  indattn claims by=figure2 --format csv          those that an experiment decides
  indattn claims by=noise_curve seed=[10,11,12,13,14,15,16,17,18,19]     the same by runs of other seeds, beside these

keys
  verdict=holds|fails|undecided  by=EXPERIMENT  seed=[...]  profile=full|quick  format=table|csv|json
  results_dir=results

A claim of your own is an entry of a file claims/NAME.yaml in a folder given by --config-dir, or in your package.""",
        "name",
        flags=("format", "verdict"),
    ),
    "plot": Verb(
        "indattn.plot:run",
        "draw figures and tables from the results tree",
        """usage: indattn plot [FIGURE ...] [KEY=VALUE ...]

figures
  curves      accuracy against steps, mean and 95% band over seeds; a table of final scores and steps to 0.9
  noise       accuracy and steps to 0.9 against noise; of variants, the one nearest to the defaults is
              noise-TASK, and the names of the others say in what they differ from it
  figure2     the paper's figure 2 under every reading there are runs of
  readings    figure 2 by reading (self-attention, norm, fixed or fresh pairs, centre update): where indirect is above
              both others, with intervals
  figure3     the bias f of each layer and head, before and after training
  attention   attention maps of chosen examples
  retrieval   of cross_modal_retrieval: recall, ranks and paired differences with intervals, test by test, beside
              what needs no training; figures against noise
  retrieved   pictures that two models find for six texts (indirect and dual, or those named by model=)
  centres     where a model looks and where its centres go, over the pictures
  alignment   of speech_text_alignment: every metric and paired differences with intervals, errors of word starts
              against noise, cumulative shares of words, beside other aligners; by corpus where runs were
              evaluated on others
  spans       a recording, its words, and how their spans move through the layers; each layer's bias
  ablations   runs that differ from indirect, or from indirect_expected, in one thing: differences paired by seed,
              steps to 0.9, and scores under a context whose symbols were replaced
  heads       how much of each head's scores is bias, and how much of the bias depends on the data
  tuning      no figure: the validation scores of runs that differ in learning rate or another choice, a table a task
  pareto      test scores against the operations of training, a panel a noise level; filled: no other model scores more
              for as few (tasks with at least two models)
  lengths     of lookup: accuracy of sequences longer than trained on, of runs evaluated with n=[...]
  slips       of lookup: accuracy under each way in which content slips (misalignment=...)
  (none named: every one that the runs allow)

examples
  indattn plot noise task=synthetic
  indattn plot figure3 task=sequence_retrieval seed=0
  indattn plot retrieval retrieved centres task=cross_modal_retrieval
  indattn plot alignment task=speech_text_alignment
  indattn plot readings task=[sorting,sequence_retrieval] seed=[0,1,2,3,4]
  indattn plot ablations task=synthetic noise=0.5
  indattn plot spans model=[indirect,cross_moving] noise=0.5 seed=0 example=1
  indattn plot attention run=results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d example=1

Figures (PNG and PDF) go to <results_dir>/figures, the numbers in them to <results_dir>/tables. No weights are read.

keys
  task=...  model=NAME|[...]  noise=X|[...]  seed=N|[...]  or in their place run=PATH|[...]
  example=0  suffix=NAME (of the files)  results_dir=results""",
        "figure",
        where=FILTERS,
        words=(
            *("curves", "noise", "figure2", "readings", "figure3", "attention", "retrieval", "retrieved", "centres"),
            *("alignment", "spans", "ablations", "heads", "tuning", "pareto", "lengths", "slips"),
        ),
    ),
    "report": Verb(
        "indattn.report:run",
        "write the ledger with its figures, tables and curves as one page, and as text",
        """usage: indattn report [KEY=VALUE ...]

examples
  indattn report                                          results/report/index.html and report.md
  indattn claims && indattn report                        after new runs: the ledger first
  indattn report viewer.task=sequence_retrieval viewer.noise=0 viewer.model=[indirect,standard]
  indattn report viewer.seed=[0,1] viewer.example=0

Made of what is committed of a results tree: the ledger, records, tables, figures. The same tree gives the same bytes.
The page is one file without links to the network. Attention maps come from the folders of the chosen runs, and where
these are missing from report/recordings.json, which an earlier report wrote.

keys
  viewer.task=synthetic  viewer.model=NAME|[...]  viewer.noise=X|[...]  viewer.seed=N|[...]  viewer.example=N|[...]
  results_dir=results""",
    ),
    "show": Verb(
        "indattn.show:run",
        "list the runs there are, or print one",
        """usage: indattn show [RUN] [KEY=VALUE ...]

examples
  indattn show                                            every run, a line each
  indattn show task=synthetic noise=0.5 state=done
  indattn show model=[indirect,standard] format=csv > runs.csv
  indattn show results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d

keys
  task=...  model=NAME|[...]  noise=X|[...]  seed=N|[...]  state=done|unfinished|started  (without RUN)
  format=table|csv|json  results_dir=results""",
        "run",
        where=FILTERS,
        flags=("format",),
    ),
    "export": Verb(
        "indattn.interface:run",
        "write a finished run as a folder that other projects load without Hydra",
        """usage: indattn export RUN [out=FOLDER]

examples
  indattn export results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d
  indattn export results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d --out recall

The folder has the weights (safetensors), configuration, curve and result as JSON, and a README with the code that loads
it, which needs the package indattn but no Hydra: indattn.load_export("recall").model. A run of the results tree is
loaded by indattn.load_run(RUN).

keys
  out=FOLDER      none: TASK-MODEL-noise-X-seed-K-HASH in the current folder""",
        "run",
        flags=("out",),
    ),
    "gc": Verb(
        "indattn.leftovers:run",
        "list what unfinished runs and killed writers left, and remove it after asking",
        """usage: indattn gc [KEY=VALUE ...]

examples
  indattn gc                                              lists, and asks before it removes
  indattn gc --yes                                        removes without asking
  indattn gc --format csv > leftovers.csv                 lists only
  indattn gc results_dir=results/demo

Listed are runs that are not done and that no process is training (also those that the same train command would resume),
runs whose configuration is damaged, temporary files of writers that were killed, and empty folders, with size and age.
Where no terminal can answer, nothing is removed without --yes. Finished runs, and those that are being trained, are
never touched.

keys
  yes=true  format=table|csv|json  results_dir=results""",
        flags=("yes", "format"),
    ),
    "theory": Verb(
        "indattn.theory:run",
        "measure the paper's lemmas, its figure 1 and the signal-to-noise ratio of trained runs",
        """usage: indattn theory [figure1 | threshold | lemmas | setting | training ...] [KEY=VALUE ...]

  figure1     the three panels of the paper's figure 1, measured under every reading of the text
  threshold   where the critical noise goes for correlated or heavy-tailed noise and for values with a mean
  lemmas      errors of single outputs against the bound of lemma 1, energies against lemma 2
  setting     one setting of width, heads, noise, weights, covariances, ...: measured beside the closed forms
  training    trained runs that kept checkpoints: sharpness, signal-to-noise ratio and misalignment energy of every
              layer and head, along training and against noise
  (none named: figure1, threshold and lemmas)

examples
  indattn theory figure1
  indattn theory figure1 widths=[16,64,256] n=128
  indattn theory setting setting.width=128 setting.heads=4 setting.sigma=0.5 setting.covariance=0.3
  indattn train experiment=theory_training hydra/launcher=joblib && indattn theory training task=synthetic
  indattn theory training run=results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d

Figures go to <results_dir>/figures, the numbers in them to <results_dir>/tables.

keys
  widths=[...]  n=64  sigmas=[...]  shifts=[...]  random_seed=0  (of figure1, threshold and lemmas)
  setting.*  samples=4000  (of setting)
  examples=128  suffix=...  task=...  model=...  noise=...  seed=...  or in their place run=PATH|[...]  (of training)
  format=table|csv|json  device=auto  threads=auto  progress=auto  results_dir=results""",
        "theory",
        where=FILTERS,
        words=("figure1", "threshold", "lemmas", "setting", "training"),
        flags=("format",),
    ),
    "bench": Verb(
        "indattn.bench:run",
        "time attentions, models, training steps and commands, as ratios within one run",
        """usage: indattn bench attention | models | step | profile | retrieval | startup | sweep [KEY=VALUE ...]

examples
  indattn bench attention                                 every family and backend against plain attention
  indattn bench attention attention.lengths=[512,2048,4096] attention.families=[mlp,gaussian] rounds=5
  indattn bench attention device=cuda attention.precision=bf16 attention.backends=[folded,table,flex]
  indattn bench models                                    operations, time and memory of a step as sequences grow
  indattn bench models growth.lengths=[256,1024] training.batch_size=8 models=[standard,indirect,double_cross]
  indattn bench models model.match_parameters=false       with feed-forward blocks of the same width
  indattn bench step                                      a training step, the paper's size, self-attention on and off
  indattn bench step models=[standard,indirect,cross] rounds=20
  indattn bench profile models=[standard,indirect]        where the time of a training step goes
  indattn bench retrieval rounds=3                        a run's command up to its first step, a matrix of scores
  indattn bench startup                                   how long commands take to answer, and a run to begin
  indattn bench sweep rounds=1                            24 runs in parallel beside one alone: some three minutes

keys
  rounds=N  threads=1  device=auto  format=table|csv|json  results_dir=results
  attention.lengths=[...]  .families=[...]  .backends=[...]  .precision=fp32|bf16  .memory=true
  attention.batch  .heads  .head_width  .hidden  .frequencies  .offset_scale
  models=[...]  steps=N  (of models, step and profile; ratios are to the first)
  growth.lengths=[16,64,256]  growth.memory=true  task=synthetic  size=small  (of models)
  self_attention=[true,false]  task=sorting  size=paper  (of step and profile)""",
        "bench",
        words=("attention", "models", "step", "profile", "retrieval", "startup", "sweep"),
        flags=("format",),
    ),
    "align": Verb(
        "indattn.align:run",
        "find when each word of a transcript is said in a recording",
        """usage: indattn align AUDIO TRANSCRIPT [-o OUT ...] [KEY=VALUE ...]

  AUDIO        WAV, FLAC, Ogg, MP3, of any rate and length
  TRANSCRIPT   a text file, UTF-8: what is said, in order; punctuation, line breaks and numbers as one writes them
  OUT          .TextGrid (for Praat: words and phones), .json (the same, with confidences), .csv (a row a word);
               none: a table on the terminal

examples
  indattn align speech.wav speech.txt                     a table
  indattn align speech.wav speech.txt -o speech.TextGrid
  indattn align speech.mp3 speech.txt -o words.csv -o words.json plot=words.png
  indattn align parole.ogg parole.txt language=fr -o parole.TextGrid
  indattn align speech.wav speech.txt model=results/runs/speech_text_alignment/cross/noise-0.50/seed-0/1a2b3c4d
  indattn align speech.wav speech.txt format=csv > words.csv

The text must be what is said, word for word: a single word that nobody says is left out (said: no), but where sentences
are missing from the text or from the recording, words are put in wrong places, and their confidence hardly tells.
confidence, 0 to 1, is how probable the model holds it that a word's phones begin within 20 ms of where they were put.

The phones of words are espeak-ng's, for a hundred languages. The reference model has heard English alone, from
synthetic voices: of human voices, noisy recordings and other languages expect less; look at the confidences and the
picture. A model of your own recordings: indattn train task=speech_text_alignment task.formulation=pointer
task.data=FOLDER. Needs pip install 'indattn[speech]'.

keys
  out=FILE|[...]  language=en-us  model=reference|RUN  plot=FILE.png|.pdf|.svg
  skip=X          a word is left out below this score, a logarithm; less keeps more words, more leaves out more
  format=table|csv|json  threads=auto|N""",
        "file",
        where=("model",),
        output="out",
        flags=("format",),
    ),
    "aligners": Verb(
        "indattn.aligners:run",
        "score other aligners on the words that the alignment models are tested on",
        """usage: indattn aligners [linear | energy-durations | dtw | pocketsphinx | reference ...] [KEY=VALUE ...]

  linear             words as long as their number of phones, from the recording's start to its end
  energy-durations   phones of mean duration between the first loud frame and the last
  dtw                the transcript spoken by a synthetic voice, matched by dynamic time warping (aeneas's method)
  pocketsphinx       forced alignment with a hidden Markov model of English, other languages by its nearest phones
  reference          as indattn align does with the model that comes with the package
  (none named: all)

examples
  indattn aligners                                        the test of the synthetic corpus at noise 0, 0.25, 0.5
  indattn aligners linear dtw noise=0.5 format=csv
  indattn aligners data=human noise=0

Numbers go to <results_dir>/tables/alignment-baselines.csv, where `indattn plot alignment` finds them, unless test_seed
or misalignment make it another test. Extras:
pip install 'indattn[speech,aligners]'.

keys
  data=CORPUS|PATH  noise=X|[...]  misalignment.lead  .stretch  .words  test_seed=N
  format=table|csv|json  progress=auto|true|false  results_dir=results""",
        "aligner",
        words=("linear", "energy-durations", "dtw", "pocketsphinx", "reference"),
        flags=("format",),
    ),
    "data": Verb(
        "indattn.corpora:run",
        "list corpora, get one, check your own, compute features",
        """usage: indattn data                                    what there is: items, splits, size, licence, where
       indattn data prepare NAME [file=PATH]           get tuxpaint or human, which are not shipped, into the cache
       indattn data check PATH [images=FOLDER]         read all of your own pictures and texts, count them
       indattn data features NAME|PATH [images=FOLDER] compute what pretrained encoders see, ahead of training
       indattn data check human                        what sound alone tells of the boundaries of human speech
       indattn data features synthetic                 make the corpus of synthetic speech, ahead of training

your own
  a folder            pictures, each with a text file of the same stem (crow.jpg, crow.txt), one caption a line
  a .csv or .parquet  columns image, caption (or caption_1, caption_2, ...), optional id, split, group, source;
                      a picture with five captions has five rows
  a .json file        as Karpathy split Flickr8k, Flickr30k and COCO
  Without splits, a hash of the picture's path (or of its group) decides: 70% train, 15% validation, 15% test.

examples
  indattn data
  indattn data prepare tuxpaint                           161 MB by apt-get download, no root; 14 MB are kept
  indattn data prepare human                              speech, of the same package; needs pip install
                                                          'indattn[speech]'; five minutes, 0.5 GB are kept
  indattn data prepare tuxpaint file=tuxpaint-stamps-default_2022.06.04-1_all.deb
  indattn data check holiday-pictures                     a folder
  indattn data check dataset_flickr30k.json images=flickr30k-images
  indattn data check birds.csv splits=[test]              a corpus to test on alone
  indattn data features emoji                             needs pip install 'indattn[retrieval]'; two minutes, 472 MB
  indattn data features synthetic                         needs pip install 'indattn[speech]'; a minute or two, 194 MB

What is wrong is said in one line with file and row. Prepared corpora and features lie in $INDATTN_CACHE, or else in
the system's folder for caches.

keys
  file=PATH  force=true  (of prepare)    images=FOLDER  (of check, features)    splits=[...]  (of check)
  format=table|csv|json  progress=auto|true|false""",
        "data",
        words=("prepare", "check", "features", "emoji", "tuxpaint", "human", "synthetic"),
        flags=("format",),
    ),
}

#: Config groups, in the order in which help lists them.
GROUPS = ("model", "task", "misalignment", "size", "experiment")

HELP = """indattn: reproduce, test and extend indirect attention (arXiv 2509.26015)

usage: indattn VERB [WORD ...] [KEY=VALUE ...]

verbs
{verbs}

start here
  indattn train task=synthetic noise=0.5      two minutes on two cores
  indattn train model=standard noise=0.5      the same without the bias
  indattn show                                what there is now
  indattn plot                                figures of it

indattn VERB --help explains a verb. Tab completion: eval "$(indattn -sc install=bash)" (zsh the same,
fish: indattn -sc install=fish | source).
"""
