"""The page itself, in Gradio: fields and buttons over ``actions``, and a look at the queue every two seconds.

Nothing about a training is kept in the page: a reload, a second tab and another page on the same folder see the same.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from pair_network.errors import PairError
from pair_network.training.report.report import chart

from . import actions
from .actions import FORMATS, MORE_PAIRS, TIMES, Workplace
from .queue import FAILED, RUNNING, STOPPED, WAITING, Run, age

SECONDS = 2.0
CSS = (
    ".findings p {margin: .2em 0} .chart svg {width: 100%; max-width: 46rem} .chart .grid {stroke: #8884} "
    "#previews .thumbnail-item {aspect-ratio: auto; height: auto}"  # sheets are wide
)
Result = TypeVar("Result")


def page(work: Workplace) -> gr.Blocks:
    """The whole page over a folder."""
    with gr.Blocks(title="Pair Network", analytics_enabled=False) as blocks:
        gr.Markdown("# A style from one pair\nA photo, and the same photo painted. What differs is learnt.")
        with gr.Tab("Learn"):
            learn(work, blocks)
        with gr.Tab("Compare") as tab:
            compare(work, tab)
        with gr.Tab("Restyle a photo") as tab:
            restyle(work, tab)
        with gr.Tab("Use it") as tab:
            use(work, tab)
    return blocks


def said(function: Callable[..., Result], *arguments: object) -> Result:
    """The function's result; a user's mistake becomes a message on the page."""
    try:
        return function(*arguments)
    except PairError as mistake:
        raise gr.Error(str(mistake), title="That cannot be done", print_exception=False) from None


def learn(work: Workplace, blocks: gr.Blocks) -> None:
    with gr.Row():
        photo, painting = (
            gr.Image(
                label=label, type="filepath", image_mode=None, elem_id=tag, sources=["upload", "clipboard"], height=280
            )
            for label, tag in (("the photo", "photo"), ("the same, painted", "painting"))
        )
    findings = gr.Markdown(elem_id="findings", elem_classes="findings")
    with gr.Row():
        words = gr.Textbox(label="the style's words", placeholder="in ink wash style", elem_id="words")
        shows = gr.Textbox(
            label="what the photo shows (may stay empty)", placeholder="a photo of a dog", elem_id="shows"
        )
    with gr.Row():
        model = model_field(work)
        time = gr.Radio(list(TIMES), value="normal", label="time")
        more = gr.Checkbox(True, label=f"make {MORE_PAIRS} more pairs out of it first", elem_id="more")
    start = gr.Button("Train", variant="primary", elem_id="train")
    chosen = watch(work, blocks)

    def checked(photo: str | None, painting: str | None, words: str | None) -> str:
        if not (photo and painting):
            return ""
        try:
            lines, _ = actions.check(work, photo, painting, words)
        except PairError as mistake:
            lines = [f"error: {mistake}"]
        return "\n\n".join(lines) or "Nothing wrong was found with this pair."

    def added(*fields: object) -> Any:
        run = said(actions.train, work, *fields)
        return gr.Dropdown(choices=names(work), value=run.name)

    for field in (photo, painting):
        field.change(checked, [photo, painting, words], findings, api_name="check", show_progress="hidden")
    start.click(added, [photo, painting, words, shows, model, time, more], chosen, api_name="train")


def watch(work: Workplace, blocks: gr.Blocks) -> gr.Dropdown:
    """The trainings: a choice among them, and the chosen one as it goes on; returns the choice."""
    gr.Markdown("## Trainings")
    with gr.Row():
        chosen = gr.Dropdown(label="training", choices=names(work), value=newest(work), elem_id="run", interactive=True)
        stop, go_on = gr.Button("Stop", elem_id="stop"), gr.Button("Resume", elem_id="resume")
    status = gr.Markdown("No training yet.", elem_id="status")
    curves = gr.HTML(elem_id="curves", elem_classes="chart")
    gallery = gr.Gallery(
        label="base | style LoRA | style guidance",
        columns=1,
        object_fit="contain",
        elem_id="previews",
        height=420,
        visible=False,
    )
    report = gr.File(label="report", elem_id="report", visible=False)
    shown, seen = [chosen, status, curves, gallery, report], gr.State(())

    def looked(name: str | None, seen: tuple[object, ...]) -> list[Any]:
        return refreshed(work, name, tuple(seen))

    stop.click(lambda name: said(work.queue.stop, name), chosen, None, api_name="stop")
    go_on.click(lambda name: said(resumed, work, name), chosen, None, api_name="resume")
    for event in (gr.Timer(SECONDS).tick, chosen.change):
        event(looked, [chosen, seen], [*shown, seen], show_progress="hidden", api_name="status")
    blocks.load(lambda: refreshed(work, newest(work), ()), None, [*shown, seen], show_progress="hidden")
    return chosen


def resumed(work: Workplace, name: str) -> None:
    work.queue.resume(name)
    work.queue.tick()


def refreshed(work: Workplace, name: str | None, seen: tuple[object, ...]) -> list[Any]:
    """The list of trainings and what is to be seen of the chosen one; what this tab shows already stays as it is.

    Args:
        seen: What the tab shows: the names, the chosen one, its state, steps, and number of previews.
    """
    listed = names(work)
    name = name if name in listed else newest(work)
    run = work.queue.run(name) if name is not None else None
    record = None if run is None else run.record
    drawn = 0 if record is None else sum(len(entry["sheets"]) for entry in record.previews)
    now = (listed, name, "" if run is None else run.state, 0 if record is None else record.step, drawn)
    before = seen or (None,) * len(now)
    if run is None or now == before:
        return [gr.skip()] * 5 + [now]
    choice = gr.skip() if now[:2] == before[:2] else gr.Dropdown(choices=listed, value=name)
    same = (name, drawn) == (before[1], before[4])
    pictures = gr.skip() if same else gr.Gallery(value=pictures_of(run), visible=drawn > 0)
    file = Path(run.folder) / "report.html"
    is_there = file.is_file() and run.state != RUNNING
    report = gr.File(value=str(file) if is_there else None, visible=is_there)
    return [choice, status_of(run), "" if record is None else chart(record), pictures, report, now]


def pictures_of(run: Run) -> list[tuple[str, str]]:
    """The preview sheets of a training, the newest first."""
    record = run.record
    return [
        (str(path), f"step {entry['step']}")
        for entry in reversed(record.previews if record is not None else [])
        for sheet in entry["sheets"]
        if (path := Path(run.folder) / "sample" / sheet).is_file()
    ]


def status_of(run: Run) -> str:
    """The state of a training in a sentence; of a failed one with the end of its log."""
    record = run.record
    steps = f"step {record.step} of {record.total_steps}, {age(record.seconds)}" if record is not None else "starting"
    if run.state == WAITING:
        return f"**{run.name}** is waiting for the training before it"
    if run.state == RUNNING:
        return f"**{run.name}** trains: {steps}"
    if run.state == FAILED:
        return f"**{run.name}** failed:\n\n<pre>{html.escape(run.last_words())}</pre>"
    if run.state == STOPPED:
        return f"**{run.name}** was stopped ({steps}); *Resume* goes on from there"
    prompt = f"a photo of a cat {record.words}" if record is not None else ""
    return f"**{run.name}** is done ({steps}). In a prompt: `{prompt}`"


def names(work: Workplace) -> list[str]:
    return [run.name for run in reversed(work.queue.runs)]


def newest(work: Workplace) -> str | None:
    """The training that runs, else the last one added."""
    runs = work.queue.runs
    running = [run.name for run in runs if run.state == RUNNING]
    return running[0] if running else runs[-1].name if runs else None


def model_field(work: Workplace) -> gr.Dropdown:
    choices = [(Path(choice).name, choice) for choice in work.model_choices()]
    return gr.Dropdown(choices, value=choices[0][1] if choices else None, label="model", interactive=True)


def style_field(work: Workplace, tab: gr.Tab, tag: str) -> gr.Dropdown:
    """A choice among the finished LoRAs, looked up again whenever it or its tab is opened."""
    field = gr.Dropdown(choices=work.lora_choices(), label="style", interactive=True, elem_id=f"style-{tag}")

    def looked_up(value: str | None) -> Any:
        choices = work.lora_choices()
        return gr.Dropdown(choices=choices, value=value if value in choices else next(iter(choices), None))

    for event in (field.focus, tab.select):
        event(looked_up, field, field, show_progress="hidden")
    return field


def compare(work: Workplace, tab: gr.Tab) -> None:
    with gr.Row():
        lora, model = style_field(work, tab, "compare"), model_field(work)
        prompt = gr.Textbox("a photo of a cat", label="prompt, without the style's words", elem_id="prompt")
    with gr.Row():
        way = gr.Radio(["guidance", "LoRA"], value="guidance", label="way")
        amount = gr.Slider(0, 6, 2, step=0.1, label="λ of the guidance, or strength of the LoRA", elem_id="amount")
        cfg_end = gr.Slider(0, 1, 1, step=0.1, label="share of the steps with CFG (0.4: more of the style's colours)")
        seed = gr.Number(0, label="seed", precision=0)
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    slider = gr.ImageSlider(label="base model | with the style", type="filepath", elem_id="compared", interactive=False)

    def drawn(*fields: object) -> tuple[str, str]:
        base, styled = said(actions.compare, work, *fields)
        return str(base), str(styled)

    draw.click(drawn, [lora, model, prompt, way, amount, cfg_end, seed], slider, api_name="compare")


def restyle(work: Workplace, tab: gr.Tab) -> None:
    with gr.Row():
        lora, model = style_field(work, tab, "restyle"), model_field(work)
        shows = gr.Textbox(label="what the photo shows (may stay empty)")
        amount = gr.Slider(0, 6, 2, step=0.1, label="λ")
    photo = gr.Image(
        label="photo", type="filepath", image_mode=None, sources=["upload", "clipboard"], elem_id="restyle-photo"
    )
    draw = gr.Button("Restyle", variant="primary", elem_id="restyle")
    slider = gr.ImageSlider(label="photo | restyled", type="filepath", elem_id="restyled", interactive=False)

    def drawn(*fields: object) -> tuple[str, str]:
        before, after = said(actions.restyle, work, *fields)
        return str(before), str(after)

    draw.click(drawn, [lora, model, photo, shows, amount], slider, api_name="restyle")


def use(work: Workplace, tab: gr.Tab) -> None:
    lora = style_field(work, tab, "use")
    with gr.Row():
        form = gr.Dropdown(list(FORMATS), value="a1111", label="format")
        make = gr.Button("Convert", elem_id="convert")
        put = gr.Button("Send to the UI", variant="primary", elem_id="send")
    file = gr.File(label="file", elem_id="file")
    where = gr.Markdown(elem_id="where")
    make.click(lambda *fields: str(said(actions.convert, work, *fields)), [lora, form], file, api_name="convert")
    put.click(
        lambda name: "Written:\n\n" + "\n\n".join(f"`{path}`" for path in said(actions.send, work, name)),
        lora, where, api_name="send",
    )  # fmt: skip
