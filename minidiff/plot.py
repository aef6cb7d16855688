"""Figures in one house style: a title that states the finding, and alt text for readers who cannot see the picture.

A figure function returns a `Picture`, a value: the last line of a cell displays it, `show` displays it earlier,
`.save(path)` writes it. Figures of your own, drawn with matplotlib after `style()`, join in by `show(fig, alt="…")`.
Pictures are in [-1, 1] everywhere; what lies outside (a sample may overshoot) is shown as the nearest end.

The palette is Okabe and Ito's (Color Universal Design, 2008) without its yellow, which vanishes on white; a line also
has a dash pattern and a mark also has a sign, so that nothing is said by colour alone.
"""
import base64
import io
import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image, ImageSequence
from torch import Tensor

WIDTH, DPI = 824, 100                                    # a figure is as wide as a notebook's text, in CSS pixels
GAP, LETTER, LINE, TITLE_LETTER, TITLE_LINE = 8, 7, 16, 9, 20        # the layout of `grid`, in pixels
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")      # blue, vermilion, green, …
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 1.2, 1, 1.2, 1, 1.2)), "-")
CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Heiti TC",
           "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei")
Frames = Sequence[Float[Tensor, "b c h w"]]
STYLE = {
    "font.family": ["DejaVu Sans", *[name for name in CHINESE if name in fontManager.get_font_names()][:1]],
    "axes.titlesize": 12, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "figure.dpi": DPI, "figure.figsize": (WIDTH / DPI, 3.6), "figure.constrained_layout.use": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS, linestyle=DASHES), "lines.linewidth": 1.8,
    "axes.grid": True, "grid.color": "#E4E4E4", "axes.axisbelow": True, "image.interpolation": "nearest",
    "legend.frameon": False, "legend.handlelength": 2.6, "errorbar.capsize": 3, "figure.constrained_layout.h_pad": 0.08,
}


def style() -> None:
    """The house style for figures of your own; the first cell of a notebook calls it."""
    matplotlib.rcParams.update(STYLE)


def write(path: str | Path, data: bytes) -> None:
    """All of `data` at `path`, or nothing: it is written beside it first and renamed when complete."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path} ({error.strerror}); nothing was left behind") from error
    finally:
        beside.unlink(missing_ok=True)                                   # not there any more if all went well


@dataclass(frozen=True)
class Picture:
    """A finished PNG, animated if it is a film; its alt text travels as metadata of the output, for exported pages."""
    data: bytes = field(repr=False)
    alt: str

    def __post_init__(self):
        if not self.alt.strip():
            raise ValueError("a figure needs alt text: pass alt='what a reader who cannot see it should know'")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        encoded, about = base64.b64encode(self.data).decode(), {"image/png": {"alt": self.alt}}
        return {"image/png": encoded, "text/plain": self.alt}, about

    def save(self, path: str | Path) -> None:
        """As .png, or as .gif where a film must play in old programs."""
        if Path(path).suffix not in (".png", ".gif"):
            raise ValueError(f"a picture is saved as .png or .gif, so '{Path(path).name}' needs one of these endings")
        frames = [frame.copy() for frame in ImageSequence.Iterator(Image.open(io.BytesIO(self.data)))]
        pauses = [frame.info.get("duration", 0) for frame in frames]
        write(path, self.data if Path(path).suffix == ".png" else _encode(frames, "gif", pauses))


def picture(fig: Figure, *, alt: str) -> Picture:
    """A matplotlib figure as a `Picture` of at most 256 colours: a third of the size, and looks the same."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")       # no Chinese font here: boxes, but no noise
        fig.savefig(buffer, format="png", dpi=fig.dpi)
    return Picture(_encode([Image.open(buffer).convert("RGB").quantize(dither=Image.Dither.NONE)]), alt)


def show(figure: Figure | Picture, *, alt: str = "") -> None:
    """Display a figure now (a cell's last `Picture` displays itself); a matplotlib figure needs `alt`."""
    from IPython.display import display
    from matplotlib import pyplot
    display(figure if isinstance(figure, Picture) else picture(figure, alt=alt))
    if isinstance(figure, Figure):
        pyplot.close(figure)                                             # or the notebook would show it again


def _encode(frames: list[Image.Image], form: str = "png", durations: Sequence[float | int] = (0,)) -> bytes:
    """One frame as a PNG or GIF file, several as one that repeats; durations in milliseconds."""
    buffer = io.BytesIO()
    frames[0].save(buffer, form, optimize=form == "png", save_all=len(frames) > 1, append_images=frames[1:],
                   duration=list(durations), loop=0)
    return buffer.getvalue()


def to_uint8(pictures: Float[Tensor, "b c h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """round(127.5·(x + 1)), clipped to 0…255; one channel is shown as grey."""
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise ValueError(f"pictures have the shape [b, 1 or 3, h, w], not {list(pictures.shape)}")
    if not torch.isfinite(pictures).all():
        raise ValueError("a picture holds values that are not finite (nan or inf), so there is nothing to show")
    levels = ((pictures.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def tile(pictures: Float[Tensor, "b c h w"], columns: int = 8, *, gap: int = 2) -> Float[Tensor, "c H W"]:
    """One picture out of many, row by row on white; the last row is filled up with white."""
    b, c, h, w = pictures.shape
    rows, columns = -(-b // columns), min(columns, b)
    sheet = pictures.new_ones(c, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for i, image in enumerate(pictures):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, y:y + h, x:x + w] = image
    return sheet


def _enlarge(levels: UInt8[np.ndarray, "*b h w 3"], scale: int) -> UInt8[np.ndarray, "*b H W 3"]:
    """Nearest neighbour: every pixel becomes a square, so that the reader sees what the network saw."""
    return levels.repeat(scale, -3).repeat(scale, -2)


def save_png(pictures: Float[Tensor, "b c h w"], path: str | Path, *, columns: int = 8, scale: int = 1) -> None:
    """The pictures as one tiled PNG file, complete or not there at all."""
    sheet = to_uint8(tile(pictures, columns)[None])[0]
    Picture(_encode([Image.fromarray(_enlarge(sheet, scale))]), f"{len(pictures)} pictures").save(path)


def wrap(text: str, width: int) -> str:
    """Break lines at blanks, and anywhere between Chinese characters, which count as two letters wide."""
    lines, line, used = [], "", 0
    for piece in re.findall(r"\s+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]+", text):
        wide = sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in piece)
        if line and used + wide > width:
            lines, line, used = [*lines, line.rstrip()], "", 0
        if line or not piece.isspace():
            line, used = line + piece, used + wide
    return "\n".join([*lines, line.rstrip()])


def _each(values: Sequence | None, count: int, what: str, missing: Any) -> list:
    """One value for each of `count` things; `missing` for all of them where none were given."""
    if values is not None and len(values) != count:
        raise ValueError(f"there are {len(values)} {what} where {count} are needed: give one for each, or none at all")
    return [missing] * count if values is None else list(values)


def _captions(captions, marks, count: int, width: int) -> tuple[list[str], list[str]]:
    """The text under each picture, with its sign if it has one, and the text's colour."""
    texts, marks = _each(captions, count, "captions", ""), _each(marks, count, "marks", None)
    look = {True: ("✓ ", COLOURS[2]), False: ("✗ ", COLOURS[1]), None: ("", "black")}
    return [wrap(look[m][0] + text, width) for m, text in zip(marks, texts, strict=True)], [look[m][1] for m in marks]


@matplotlib.rc_context(STYLE)
def grid(pictures: Float[Tensor, "b c h w"], captions: Sequence[str] | None = None, *, title: str, alt: str,
         columns: int = 8, rows: Sequence[str] | None = None, marks: Sequence[bool | None] | None = None) -> Picture:
    """Pictures in rows, enlarged to whole pixels, captions wrapped beneath; `marks` sets ✓ or ✗ before a caption."""
    left, columns = 0 if rows is None else 112, min(columns, len(pictures))
    side = min((WIDTH + GAP - left) // columns - GAP, 160)
    large = _enlarge(to_uint8(pictures), max(1, side // pictures.shape[-1]))
    b, tall, wide, _ = large.shape
    texts, inks = _captions(captions, marks, b, wide // LETTER)
    heading = wrap(title, WIDTH // TITLE_LETTER)
    depths = [tall + GAP + LINE * max(len(t.splitlines()) for t in texts[i:i + columns]) for i in range(0, b, columns)]
    tops = np.cumsum([GAP + TITLE_LINE * len(heading.splitlines()) + GAP, *depths])
    size = max(WIDTH, left + columns * (wide + GAP) - GAP), int(tops[-1])
    fig = Figure((size[0] / DPI, size[1] / DPI), layout="none")
    put = partial(fig.text, transform=None, size=9)                      # in pixels from the lower left corner
    put(0, size[1] - GAP, heading, va="top", size=STYLE["axes.titlesize"])
    for i, image in enumerate(large):
        x, y = left + i % columns * (wide + GAP), size[1] - int(tops[i // columns]) - tall
        fig.figimage(image, x, y, origin="upper")
        put(x + wide / 2, y - 2, texts[i], va="top", ha="center", color=inks[i])
    for top, name in zip(tops, _each(rows, len(depths), "row names", ""), strict=False):
        put(0, size[1] - top - tall / 2, wrap(name, left // LETTER), va="center")
    return picture(fig, alt=alt)


def pair(before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], captions: Sequence[str] | None = None, *,
         title: str, alt: str, names: tuple[str, str] = ("before", "after")) -> Picture:
    """Each picture above what became of it."""
    below = captions and [*[""] * len(before), *captions]
    return grid(torch.cat([before, after]), below, title=title, alt=alt, columns=len(before), rows=names)


def moments(count: int, most: int) -> list[int]:
    """At most `most` indices out of 0 … count - 1, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def path_strip(frames: Frames, names: Sequence[str] | None = None, *, title: str, alt: str, most: int = 8,
               rows: Sequence[str] | None = None) -> Picture:
    """A sampling path as a strip: a row a picture, from the first frame to the last; `names` has one name a frame."""
    chosen = moments(len(frames), most)
    names = _each(names, len(frames), "names of frames", None)
    captions = [""] * len(chosen) * (len(frames[0]) - 1) + [names[i] or f"step {i}" for i in chosen]
    strip = torch.stack([frames[i] for i in chosen], 1).flatten(0, 1)
    return grid(strip, captions, title=title, alt=alt, columns=len(chosen), rows=rows)


def film(frames: Frames, *, alt: str, columns: int = 4, fps: float | int = 8, most: int = 16) -> Picture:
    """At most `most` of the frames as an animated PNG that repeats and rests on its last frame.

    All share a palette of 64, so that nothing flickers; half of it are the last frame's own colours. (A GIF would be
    larger, and exported pages do not show it among the outputs; `.save("film.gif")` makes one.)
    """
    sheets = np.stack([to_uint8(tile(frames[i], columns)[None])[0] for i in moments(len(frames), most)])
    parts = [Image.fromarray(part.reshape(-1, *sheets.shape[2:])) for part in (sheets[-1:], sheets)]
    halves = [(part.quantize(32).getpalette() + [0] * 96)[:96] for part in parts]
    palette = Image.new("P", (1, 1))
    palette.putpalette(halves[0] + halves[1])
    large = _enlarge(sheets, max(1, 400 // sheets.shape[2]))
    images = [Image.fromarray(sheet).quantize(palette=palette, dither=Image.Dither.NONE) for sheet in large]
    return Picture(_encode(images, durations=[round(1000 / fps)] * (len(images) - 1) + [1500]), alt)


def _panel(title: str, xlabel: str, ylabel: str, log: str = "") -> Axes:
    ax = Figure().subplots()
    ax.set(title=wrap(title, 80), xlabel=xlabel, ylabel=ylabel, **{f"{axis}scale": "log" for axis in log})
    return ax


def _with_legend(ax: Axes, alt: str) -> Picture:
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.figure.legend(loc="outside right upper")                      # beside the lines, never over them
    return picture(ax.figure, alt=alt)


@matplotlib.rc_context(STYLE)
def curves(lines: Mapping[str, tuple], *, title: str, xlabel: str, ylabel: str, alt: str, log: str = "") -> Picture:
    """Lines by name, each (x, y) or (x, y, spread), the spread as a band; `log` names logarithmic axes: "y" or "xy"."""
    ax = _panel(title, xlabel, ylabel, log)
    for name, (x, y, *spread) in lines.items():
        line, = ax.plot(x, y, label=name)
        for s in spread:
            ax.fill_between(x, np.subtract(y, s), np.add(y, s), color=line.get_color(), alpha=0.2, linewidth=0)
    return _with_legend(ax, alt)


@matplotlib.rc_context(STYLE)
def loss_curve(history: Any, *, title: str, alt: str, log: str = "") -> Picture:
    """The losses of a `train.History` (`steps`, and `losses` by name), pale, and in front the mean of their neighbours.

    The mean at a step is over the twentieth of the run around it (at the ends, over the part that exists).
    """
    ax = _panel(title, "training step", "loss", log)
    for name, values in history.losses.items():
        window = np.ones(len(values) // 40 * 2 + 1)
        mean = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
        line, = ax.plot(history.steps, mean, label=name, zorder=3)
        ax.plot(history.steps, values, color=line.get_color(), alpha=0.3, linewidth=0.7, linestyle="-")
    return _with_legend(ax, alt)


@matplotlib.rc_context(STYLE)
def bars(values: Mapping[str, float | int | tuple], *, title: str, xlabel: str, alt: str, unit: str = "") -> Picture:
    """Horizontal bars by name, the first on top, each a number, (number, spread) or (number, low, high).

    At its end the number is written, with `unit` (such as " %") behind it: "0.31 ± 0.02" or "1 % [0, 6]".
    """
    ax = _panel(title, xlabel, "")
    ax.figure.set_figheight(1.1 + 0.32 * len(values))
    for name, value in values.items():
        number, *error = value if isinstance(value, tuple) else (value,)
        reach = [[number - error[0]], [error[1] - number]] if len(error) == 2 else error or None
        bar = ax.barh(name, number, xerr=reach, color=COLOURS[0], height=0.65)
        doubt = ("", " ± {:.2g}", " [{:.3g}, {:.3g}]")[len(error) * any(error)].format(*error)
        ax.bar_label(bar, [f"{number:.3g}{unit}{doubt}"], padding=4)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.2)
    return picture(ax.figure, alt=alt)
