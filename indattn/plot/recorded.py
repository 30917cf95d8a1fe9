"""What runs recorded: `indattn plot figure3 attention`, and the figures in a run's own folder."""

from __future__ import annotations

from indattn import figures
from indattn.errors import UserError
from indattn.plot import alignment_pages, retrieval_pages
from indattn.plot.plotter import Plotter, describe_run, recording, run_slug
from indattn.plot.scores import curve_table, run_table
from indattn.runs import Run

__all__ = ["attention", "figure3", "run_figures"]


def figure3(plotter: Plotter) -> None:
    """The bias of each layer and head, of the first seed of each kind of run that has one."""
    for run in plotter.representatives():
        after, before = recording(run), recording(run, "recording_initial")
        if "bias_function" in after and before:
            plotter.save_figure(
                figures.bias_curves(before, after, f"Bias f: {plotter.described(run)}"),
                f"figure3-{run_slug(run)}",
            )


def attention(plotter: Plotter) -> None:
    """Attention maps of one test example, of the first seed of each kind of run."""
    for run in plotter.representatives():
        recorded = recording(run)
        if "attention" not in recorded:
            continue
        examples = recorded["attention"].shape[1]
        if not 0 <= plotter.example < examples:
            raise UserError(f"example={plotter.example}: the run keeps examples 0 to {examples - 1}")
        title = f"Attention: {plotter.described(run)}, test example {plotter.example}"
        plotter.save_figure(
            figures.attention_maps(recorded, plotter.example, title),
            f"attention-{run_slug(run)}-example-{plotter.example}",
        )


def run_figures(run: Run) -> None:
    """Draw a finished run's own figures into its folder."""
    runs = run_table([run]).assign(variant="")
    folder = run.path / "figures"
    figures.save(
        figures.learning_curves(curve_table([run]).assign(variant=""), runs, "variant", "noise", describe_run(run)),
        folder / "learning_curve",
    )
    after = recording(run)
    if "bias_function" in after:
        figures.save(
            figures.bias_curves(recording(run, "recording_initial"), after, describe_run(run)), folder / "bias"
        )
    if "attention" in after:
        figures.save(figures.attention_maps(after, 0, f"{describe_run(run)}, test example 0"), folder / "attention")
    if "pair_attention" in after:
        pairs = retrieval_pages.pairs_of(run)
        figures.save(retrieval_pages.centres_figure(pairs, after, describe_run(run)), folder / "centres")
    if "layer_spans" in after:
        figures.save(alignment_pages.spans_figure(after, 0, describe_run(run)), folder / "spans")
