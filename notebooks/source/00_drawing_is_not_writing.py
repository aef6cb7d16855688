# %% [markdown]
# # Drawing is not writing
#
# *Chapter 0*
#
# Ask a friend to translate "a red circle" into Chinese. There are two or three good answers, and they hardly differ.
#
# Now ask the same friend to **draw** a red circle. Large or small? In which corner? On black, or on cream? The sentence
# does not say. The paper does not allow "it depends": every spot of it must get some colour.
#
# **The question of this chapter: how can a machine draw, when the sentence leaves almost everything open?**
#
# It is the question of the whole course. Before we take it apart, let us see what the answer will look like. Below, six
# sentences go into a model that we will build from nothing and train on a laptop. Chapters 1 to 6 lead up to it.
#
# (The course grew out of five lecture notes on image generation. Where we write "the lecture says", it is one of them,
# and we put what it says to the test.)

# %%
import itertools
import json
import time
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidiff import autoregressive, captions, data, layers, oracle, plot, scenes, train, weights
from minidiff.notebook import Rule, claim, claims_table, expect, explore, same, steps

plot.style()

# %% tags=["nbval-ignore-output"]
model = weights.load("text-to-image")
prompts = ["a red circle", "something pink", "a small yellow star at the top right on navy",
           "a large blue ring above a small white square on black", "a large red star on cream",
           "黑色背景上，左侧有一个大的绿色十字形"]
opening = model.paint(prompts, seed=0)
plot.grid(opening, prompts, columns=6,
          title="Six sentences, and what the model of this course painted",
          alt="Six small pictures, each above the sentence it was painted from, the last in Chinese.")

# %% [markdown]
# Two of these sentences deserve a second look. *No red star* was ever shown to this model: we kept every red star away
# from its training. And the last sentence is Chinese: "on a black background, at the left, a large green cross".
#
# | | |
# |---|---|
# | **You need** | Python, tensors, a first course in deep learning; conditional probability, Bayes' rule |
# | **This chapter adds** | `scenes`, `captions`, `oracle`: a small world of which we know everything |
# | | `layers`, `autoregressive`: drawing pixel by pixel, the wrong way first |
# | | `train`, `weights`, `plot`: one training loop, weights with their story, figures |
# | **Time** | about three minutes to run on one core, an afternoon to read; part 3 ends at a good place for a pause |
#
# Keep a sheet of paper at hand. Now and then we ask you to guess before you run a cell. Write the guess down: a wrong
# guess that you wrote down teaches more than a right answer that you read.

# %% [markdown]
# ### Ten questions before we start
#
# Five minutes, in your head. If seven are easy, read on. Where one is not, its answer says where to look it up. (Names
# and letters: [notation and glossary](notation.md).)
#
# **1.** `x` holds eight colour pictures, `[8, 3, 32, 32]`, and `colour` one colour, `[3]`. Why does `x - colour` fail?
# What works?
#
# <details><summary>Answer</summary>
#
# Axes are matched from the right, and 32 is not 3. `x - colour[:, None, None]` works: `[3, 1, 1]` is stretched over all
# pixels and pictures. *Look up:* NumPy's user guide, "Broadcasting".
#
# </details><br>
#
# **2.** What is `x[2, :, 5, 7]`? What shape has `x.mean((2, 3))`?
#
# <details><summary>Answer</summary>
#
# The colour of one pixel: third picture, sixth row from the top, eighth from the left. `[8, 3]`: each picture's mean
# colour. *Look up:* PyTorch tutorials, "Tensors"; d2l.ai, "Data Manipulation".
#
# </details>

# %% [markdown]
# **3.** A red thing is one of six shapes, equally often. Someone calls half of the red circles "a red circle"; all else
# is "something red". You hear "something red". How likely is it a circle?
#
# <details><summary>Answer</summary>
#
# Bayes: $\frac{1}{12} / (\frac{1}{12} + \frac{5}{6}) = \frac{1}{11}$. *Look up:* MacKay, *Information Theory,
# Inference, and Learning Algorithms*, chapter 2.
#
# </details><br>
#
# **4.** A biased pixel is white (1) with probability 0.2, else black (−1). What are its mean and variance? How likely
# are two such pixels, independent, both white?
#
# <details><summary>Answer</summary>
#
# $0.2 - 0.8 = -0.6$; $1 - 0.6^2 = 0.64$; $0.2^2 = 0.04$. *Look up:* Deisenroth, Faisal & Ong, *Mathematics for Machine
# Learning* (MML), chapter 6.
#
# </details><br>
#
# **5.** $x$ and $\varepsilon$ are independent, both $\mathcal N(0, 1)$. How is $0.6 x + 0.8 \varepsilon$ distributed?
#
# <details><summary>Answer</summary>
#
# $\mathcal N(0, 1)$ again: $0.36 + 0.64 = 1$. *Look up:* MML, section 6.5.
#
# </details>

# %% [markdown]
# **6.** Two neighbouring pixels are always equal; each has mean 0 and variance 1. What is their covariance matrix $C$?
# What are $C$ times $(1, 1)$ and $C$ times $(1, -1)$?
#
# <details><summary>Answer</summary>
#
# Four ones. $(2, 2)$ and $(0, 0)$: eigenvectors, with eigenvalues 2 and 0. All the variance is in the brightness that
# they share. *Look up:* 3Blue1Brown, *Essence of linear algebra*, chapter 14; MML, chapter 4.
#
# </details><br>
#
# **7.** A machine paints $w z$. For $z = 2$ it should be 3, so the loss is $(w z - 3)^2$. At $w = 1$, what is the
# gradient in $w$? Where does a step of gradient descent lead, with learning rate 0.1?
#
# <details><summary>Answer</summary>
#
# Chain rule: $2 (w z - 3) z = -4$. To $w = 1.4$; the loss falls from 1 to 0.04. *Look up:* 3Blue1Brown, *Essence of
# calculus*, chapter 4; MML, chapters 5 and 7.
#
# </details>

# %% [markdown]
# **8.** A network scores two colours for a pixel: red 0, blue $\ln 3$. What does softmax make of it? What is the
# cross-entropy loss if blue is right?
#
# <details><summary>Answer</summary>
#
# $\frac14$ and $\frac34$; $-\ln \frac34 = 0.288$. *Look up:* d2l.ai, "Softmax Regression".
#
# </details><br>
#
# **9.** `Conv2d(3, 16, 3, stride=2, padding=1)` is given the `x` of question 1. What shape comes out? How many
# parameters has the layer?
#
# <details><summary>Answer</summary>
#
# `[8, 16, 16, 16]`; $16 \cdot 3 \cdot 3 \cdot 3 + 16 = 448$. *Look up:* d2l.ai, "Padding and Stride".
#
# </details><br>
#
# **10.** On training pictures the loss still falls; on held-out pictures it has been rising since step 2,000. What is
# going on, and what helps?
#
# <details><summary>Answer</summary>
#
# Overfitting: it learns the pictures by heart. More pictures, weight decay, or the weights of step 2,000. *Look up:*
# d2l.ai, "Generalization".
#
# </details><br>
#
# Done? These two cells work out what has a number.

# %%
x, colour = torch.zeros(8, 3, 32, 32), torch.zeros(3)
print("1 ", [*(x - colour[:, None, None]).shape])
print("2 ", [*x[2, :, 5, 7].shape], [*x.mean((2, 3)).shape])
heard = [shape for shape in scenes.SHAPES for coin in (0, 1) if shape != "circle" or coin]
print("3 ", heard.count("circle"), "of", len(heard))
pixel = torch.tensor([1.] * 2 + [-1.] * 8)
both = (pixel[:, None] + pixel == 2).float().mean()                  # among all pairs of such pixels
print(f"4  mean {pixel.mean():.1f}, variance {pixel.var(correction=0):.2f}, both white {both:.2f}")
mixed = torch.tensor([.6, .8]) @ torch.randn(2, 100_000, generator=data.rng("mixed"))
print(f"5  variance {mixed.var():.1f}")

# %%
print("6 ", (torch.ones(2, 2) @ torch.tensor([[1., 1], [1, -1]])).T.tolist())
w = torch.tensor(1., requires_grad=True)
(slope,) = torch.autograd.grad((w * 2 - 3) ** 2, w)
print(f"7  gradient {slope:.0f}, then w = {w - .1 * slope:.1f}")
blue = torch.tensor([0, np.log(3)]).softmax(0)[1]
print(f"8  blue {blue:.2f}, loss {-blue.log():.3f}")
conv = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
print("9 ", [*conv(x).shape], sum(p.numel() for p in conv.parameters()))

# %% [markdown]
# ## 1 A world to play with
#
# Photographs are hard to reason about: nobody knows how many pictures of "a running dog" there are. So this course
# lives in a small world of its own. A **scene** is a list of facts: the background, and for each thing its shape,
# colour, size and place. From a scene a picture can be drawn, and from a picture the scene can be read back.
#
# The smallest of our worlds is called `single`. It shows one thing at one of nine places, and we can list *all* of it.

# %%
world = scenes.single("all")
facts = {"background": 4, "shape": 6, "colour": 8, "size": 2, "place": 9}
first = world[1234]
print(first.background, first.things[0])
print(f"{' x '.join(map(str, facts.values()))} = {len(world):,} scenes")
expect("every combination is there", len(world) == np.prod(list(facts.values())))

# %% [markdown]
# The ✓ is a promise kept: `expect` checks a sentence of the text, or that a number lies in a range that was set
# beforehand, and `same` that two ways lead to one result. If one is broken, the notebook stops. All dice come from
# `data.rng("a name")`, a generator with a seed of that name, so that you see what we saw.

# %% [markdown]
# A sentence picks out some of these scenes. "A red circle" is right for a scene if its thing is red and is a circle;
# whatever the sentence does not name is free. Let us take sixteen right scenes at random and draw them.

# %%
every = list(world)


def fitting(caption):
    """The numbers of all scenes of the world for which the caption is right."""
    return torch.tensor([i for i, scene in enumerate(every) if captions.matches(scene, caption)])


red_circles = fitting("a red circle")
some = red_circles[torch.randperm(len(red_circles), generator=data.rng("sixteen"))[:16]]
plot.grid(scenes.render(world[some]), title='Sixteen pictures: "a red circle" is right for every one',
          alt="Sixteen pictures of red circles: large and small, in all corners, on four backgrounds.")

# %% [markdown]
# Now let the sentence grow. In JupyterLab you can move the slider: `told` is how many of the five facts the sentence
# tells. (On a printed page you see one position of it.) And where code only draws a figure, it is folded there: a click
# on the three dots opens it.

# %%
growing = ["something", "something red", "a red circle", "a small red circle",
           "a small red circle at the top left", "a small red circle at the top left on cream"]


def eight(told):
    fits = fitting(growing[told])
    pick = fits[torch.randint(len(fits), (8,), generator=data.rng("eight", told))]
    return plot.grid(scenes.render(world[pick]),
                     title=f'"{growing[told]}": eight of the {len(fits):,} right pictures',
                     alt=f"Eight pictures for the caption: {growing[told]}.")


explore(eight, {"told": (1, 0, 5)})

# %% [markdown]
# ### How a picture is drawn
#
# No drawing program is hidden in there. A circle of radius $r$ is a rule about distances. For a point $(u, v)$, seen
# from the centre, take
#
# $$ d(u, v) = \sqrt{u^2 + v^2} - r . \tag{0.1} $$
#
# It is negative inside the circle, zero on its edge and positive outside: a **signed distance**. A pixel far inside is
# covered by the circle, a pixel far outside is not. A pixel that the edge runs through is covered in part, and how much
# depends on how far the edge is from the pixel's middle. With $a$ the width of a pixel,
#
# $$ \text{coverage} = \tfrac12 - \frac{d}{a}, \quad \text{cut off below } 0 \text{ and above } 1 . \tag{0.2} $$
#
# That is all. The picture is background where the coverage is 0, ink where it is 1, and a mixture in between.

# %%
def circle_by_hand(x, y, r, side=32):
    """How much of each pixel a circle covers: equations (0.1) and (0.2)."""
    centres = (torch.arange(side) + .5) / side
    u, v = centres[None, :] - x, centres[:, None] - y
    distance = (u ** 2 + v ** 2).sqrt() - r
    return (.5 - distance * side).clamp(0, 1)


mine = circle_by_hand(.25, .25, scenes.SIZES["large"])
white_on_black = scenes.Scene("black", (scenes.Thing("circle", "white", "large", .25, .25),))
library = scenes.render(scenes.Scenes.of([white_on_black]))[0, 0]
same("our circle and the library's", mine * 2 - 1, library)

# %% [markdown]
# The two agree, but both could be wrong together: (0.2) is a shortcut. The honest answer is the *area* of each pixel
# that lies inside the circle. So we measure it by a second road: throw a grid of 40 × 40 points into every pixel, and
# count those that are inside.

# %%
fine = circle_by_hand(.25, .25, scenes.SIZES["large"], side=32 * 40) > .5  # 1,600 points a pixel
area = fine.float().reshape(32, 40, 32, 40).mean((1, 3))
expect("largest error of (0.2) in one pixel, as a share of its area", (mine - area).abs().max(), 0, .08)
expect("the whole area over pi r^2", mine.mean() / (np.pi * scenes.SIZES["large"] ** 2), .99, 1.01)

# %% [markdown]
# The shortcut is good to a few percent of one pixel. The other five shapes are other distances, or nearly, and nothing
# else changes. (`scenes.SHAPES` holds them; `star` is the one worth reading.)

# %% [markdown]
# ### Reading a picture back
#
# Here is what no photograph album can offer: an **oracle**. It takes a picture, finds the scene that explains it best,
# draws that scene again, and compares. If something is left that the scene does not explain, the oracle refuses and
# answers `None`. There is no neural network in it: nothing that was trained, and so nothing that could have learned to
# like the pictures of its own kind.

# %%
scene = scenes.Scene("navy", (scenes.Thing("star", "yellow", "large", .5, .25),))
picture = scenes.render(scenes.Scenes.of([scene]))
found = oracle.read(picture)[0].things[0]
print(f"a {found.size} {found.colour} {found.shape} at ({found.x:.2f}, {found.y:.2f}): {found.place}")

full_story = captions.write(world, data.rng("story"), complete=True)     # each scene, all facts told
answers = zip(oracle.read(scenes.render(world)), full_story, strict=True)
right = sum(read is not None and captions.matches(read, told) for read, told in answers)
expect("scenes of 3,456 that the oracle reads back", right, 3456, 3456)

# %% [markdown]
# **Predict first.** We now damage the picture. In the first row we add more and more noise, in the second we wipe out
# more and more of the star from below. In each row, at which picture does the oracle refuse? Write down two numbers
# from 1 to 6.

# %%
noise = torch.randn(picture.shape[1:], generator=data.rng("damage"))
noisy = [picture[0] + std * noise for std in (0, .05, .1, .15, .3, .6)]
wiped = [picture[0].clone() for _ in range(6)]
for x, row in zip(wiped, (15, 14, 13, 12, 10, 8), strict=True):
    x[:, row:] = x[:, :1, :1]                                        # all below becomes background
damaged = torch.stack(noisy + wiped)
legal = [read is not None for read in oracle.read(damaged)]
plot.grid(damaged, ["read" if good else "refused" for good in legal], marks=legal, columns=6,
          rows=["more noise", "more wiped out"],
          title="The oracle forgives a little damage, and refuses more",
          alt="Two rows of a yellow star, damaged more and more, each marked as read or refused.")

# %% [markdown]
# You would still have read some of the pictures that it refused. A threshold had to be set somewhere, and it was set
# once, on damaged pictures like these and never on a model's. So "right" means the same for every model in this
# course, and nobody can move the goalposts later.

# %% [markdown]
# ### One scene, many sentences
#
# The other direction is not unique either. A scene can be told at length or in brief, and in two languages.

# %%
twelve = [line for i in range(6) for language in ("en", "zh")
          for line in captions.write(scenes.Scenes.of([scene]), data.rng("tell", i), language)]
print("\n".join(dict.fromkeys(twelve)))

# %% [markdown]
# The judge who compares a scene with a sentence is `captions.matches`. Its idea fits into a few lines. Here it is for
# colours only: take the colour words of the sentence, and see whether the thing has that colour.

# %%
def matches_colour(scene, caption):
    """Whether the thing of a scene has the colour that the caption names, if it names one."""
    named = [word for word in caption.split() if word in scenes.COLOURS]
    return all(scene.things[0].colour == word for word in named)


for caption in [*(f"something {colour}" for colour in scenes.COLOURS), "something"]:
    assert [matches_colour(s, caption) for s in every] == [captions.matches(s, caption) for s in every]
print("✓ ours and the library's agree on all 3,456 scenes, for nine captions")

# %% [markdown]
# Now we can hold the opening picture to account. Was each of the six a right picture of its sentence?

# %%
verdicts = [read is not None and captions.matches(read, prompt)
            for read, prompt in zip(oracle.read(opening), prompts, strict=True)]
expect("right pictures among the six", sum(verdicts), 5, 6)
plot.grid(opening, [f"sentence {k}" for k in range(1, 7)], marks=verdicts, columns=6,
          title="The judge's opinion of the opening",
          alt="The six pictures of the opening, each marked as right or wrong.")

# %% [markdown]
# ## 2 How much does a sentence leave open?
#
# Call the sentence $y$ and the picture $x$. If one sentence had one right picture, drawing would be a function. It has
# many, so what we are after is a **distribution** $P(x \mid y)$: how likely is each picture, given the sentence?

# %% [markdown]
# In our world we can write it down. All $N = 3456$ scenes are equally common. The writer of a caption tosses coins
# to choose which facts to tell and how to phrase them; the coins do not look at the scene. So $P(y \mid x)$ is one and
# the same number $c$ for every picture that $y$ is right for, and 0 for every other. With Bayes' rule,
#
# $$ P(x \mid y) = \frac{P(y \mid x)\,P(x)}{\sum_{x'} P(y \mid x')\,P(x')}
#    = \frac{c / N}{n(y)\; c / N} = \frac{1}{n(y)} , \tag{0.3} $$
#
# where $n(y)$ counts the right pictures. Everything cancels: each right picture is as likely as any other.

# %% [markdown]
# That the coins do not look at the scene was the step to doubt. For the facts that are told it is how the writer is
# built; for the phrasing we check it by force. Let every one of the 3,456 scenes be told, with colour and shape named,
# in every phrasing that the grammar has, and see which scenes could have been the source of "a red circle", and how
# often.

# %%
def say(scene, named, language="en", phrasing=(0, 0)):
    """A caption of a scene that names the given facts; phrasing: the writer's two dice, 0 to 2 each."""
    keep = [fact in named for fact in ("background", "place", "size", "colour", "shape")]
    return captions.sentence(scene, language, keep, [0, 0, *phrasing])


dice = list(itertools.product(range(3), repeat=2))
ways = [[say(s, {"colour", "shape"}, phrasing=d) for d in dice] for s in every]
times_told = torch.tensor([told.count("a red circle") for told in ways])
sources = torch.where(times_told > 0)[0]
expect("the sources are the scenes that the caption is right for", sources.equal(red_circles))
expect("each is the source equally often", len(times_told[sources].unique()) == 1)
print(f"{len(sources)} scenes; each says it in {int(times_told[sources[0]])} of 9 throws of the dice")
print("the other phrasings:", *sorted({told for told in ways[int(sources[0])]} - {"a red circle"}))

# %% [markdown]
# How open is a sentence? Count in **bits**: one bit is one question with the answer yes or no. If $n$ pictures are
# equally likely, we can halve them with each question, and need about $\log_2 n$ questions to find the one that is
# meant. This number is the **entropy** of the picture, given the sentence:
#
# $$ H(x \mid y) = -\sum_x P(x \mid y)\,\log_2 P(x \mid y) = \log_2 n(y) . \tag{0.4} $$
#
# The second equation is (0.3) put into the first: $n$ terms, each $\tfrac1n \log_2 n$. To check it by a second
# road, we play the game: split the pictures in two halves, ask which half, and go on until one is left. No strategy can
# do with fewer questions than the entropy, and halving needs less than one question more.

# %%
def questions(n):
    """The mean number of yes-or-no questions until one of n pictures is found, by halving."""
    half = n // 2
    return 0 if n == 1 else 1 + (half * questions(half) + (n - half) * questions(n - half)) / n


def entropy(counts):
    """-sum p log2 p, in bits."""
    p = np.array([*counts], float) / sum(counts)
    return float(-(p * np.log2(p)).sum()) + 0.                       # no -0

# %%
right_pictures = {caption: len(fitting(caption)) for caption in growing}
for caption, n in right_pictures.items():
    print(f"{caption:45} {n:5,} right pictures {np.log2(n):6.2f} bits {questions(n):6.2f} questions")

open_bits = np.array([entropy([1] * n) for n in right_pictures.values()])
same("the entropy and log2 n", open_bits, np.log2([*right_pictures.values()]))
more = np.array([questions(n) for n in right_pictures.values()]) - open_bits
expect("questions needed beyond the entropy, the least of the six", more.min().round(9), 0)
expect("questions needed beyond the entropy, the most of the six", more.max(), None, .999)

# %%
plot.bars(dict(zip(growing, open_bits.tolist(), strict=True)),
          title='"A red circle": six bits are still open', xlabel="bits that the caption leaves open",
          alt="Bars: 11.8 bits for 'something', 8.75 for 'something red', 6.17 for 'a red circle', "
          "5.17 with the size, 2 with the place, 0 with the background.")

# %% [markdown]
# ### And a translation?
#
# The lecture that this chapter follows says: a picture is worth a thousand words, so a caption is only a small part of
# what the machine has to decide; in translation the sentence leaves little open. Is that so? We can count both.

# %% [markdown]
# Take a scene and a set of facts to tell. The English caption tells them in some phrasing, the Chinese caption tells
# the same facts in some phrasing. How many bits does the Chinese sentence still hold, once we know the English one?
# With $e$ for English and $z$ for Chinese, that is $H(z \mid e) = H(e, z) - H(e)$. All phrasings can be listed.
#
# **The rule, before the run.** Captions can tell 0, 1, … 5 facts. "Far more open" shall mean: the picture has at least
# four times as many bits open as the translation. The claim *holds* if this is so at all six lengths, *holds partly* if
# at some. (The six lengths had been worked out by hand before; the numbers below are counted afresh.)

# %%
def translation_bits(scene, named):
    """H(Chinese caption | English caption) over all phrasings, both captions telling the same facts."""
    both = Counter((say(scene, named, "en", e), say(scene, named, "zh", z)) for e in dice for z in dice)
    english = Counter(say(scene, named, "en", e) for e in dice)
    return entropy(both.values()) - entropy(english.values())


def picture_bits(named):
    """H(picture | caption) = log2 of the product of the numbers of choices that are left."""
    return float(np.log2(np.prod([many for fact, many in facts.items() if fact not in named])))


told_facts = {k: [set(c) for c in itertools.combinations(facts, k)] for k in range(6)}
left = {k: np.mean([picture_bits(c) for c in sets]) for k, sets in told_facts.items()}
moved = {k: np.mean([translation_bits(scene, c) for c in sets]) for k, sets in told_facts.items()}

# %% [markdown]
# Two checks. Each fact is left out of the same share of the captions of length $k$, so the picture's bits must fall on
# a straight line, $(1 - k/5)\log_2 3456$. And the translation must not care *which* scene is told, so ten others have
# to give the same, whatever facts are told. We also translate at random, without any list, and count.

# %%
same("bits of the picture and the straight line", [left[k] for k in range(6)],
     [(1 - k / 5) * np.log2(3456) for k in range(6)])
sets = [c for k in range(6) for c in told_facts[k]]                   # all 32
same("the translation's bits for ten other scenes",
     [[translation_bits(s, c) for c in sets] for s in every[::346]],
     [[translation_bits(scene, c) for c in sets]] * 10)

throws = torch.randint(3, (20_000, 4), generator=data.rng("translate")).tolist()
pairs = Counter((say(scene, facts, "en", (a, b)), say(scene, facts, "zh", (c, d)))
                for a, b, c, d in throws)
english = Counter(pair[0] for pair in pairs.elements())
expect("bits of a complete caption's translation, by random trials",
       entropy(pairs.values()) - entropy(english.values()), 1.575, 1.595)

# %%
plot.curves({"the picture": (range(6), [left[k] for k in range(6)]),
             "the translation": (range(6), [moved[k] for k in range(6)])},
            title="A picture is left more open than a translation, until all is told",
            xlabel="facts that the caption tells, of five", ylabel="bits left open",
            alt="The picture's line falls from 11.8 bits to 0; the translation's rises from 0 to 1.6.")

# %%
far_more = sum(left[k] >= 4 * moved[k] and left[k] > 0 for k in range(6))
claim("C57", said="A caption leaves far more open than a sentence to translate.", number=far_more,
      n=2 ** len(facts),
      rule=Rule("the picture has at least 4 times the translation's open bits: at all six lengths "
                "(holds), at some (partly)", lambda k: k == 6, lambda k: k > 0),
      sentence=f"So at {far_more} of the 6 lengths, exactly counted. With two facts told the picture "
               f"has {left[2]:.2f} bits open, the translation {moved[2]:.2f}; with four {left[4]:.2f} "
               f"against {moved[4]:.2f}; with all five {left[5]:.0f} against {moved[5]:.2f}.")

# %% [markdown]
# So the lecture is right about the short captions that people write, and wrong in the limit: once a caption tells
# everything, the picture is decided and only the wording is free. In our world that limit takes nine words. For a
# photograph it would take a book, which is why nobody has ever written such a caption.
#
# (Our grammar is small in both languages. A real translator has more freedom than $\log_2 3$ bits, but a real picture
# has very much more than twelve.)

# %% [markdown]
# ## 3 Every pixel on its own
#
# Here is a plan that seems reasonable. A program that writes picks one word after the other. A picture has no first
# word, so let us pick all pixels *at once*: for each pixel work out how likely each colour is, given the sentence, and
# then draw every pixel from its own distribution, on its own:
#
# $$ q(x \mid y) = \prod_i P(x_i \mid y) . \tag{0.5} $$
#
# A network that puts out a table of colour probabilities for each pixel does just this. And we shall be generous: we
# do not train one, we give the plan the *exact* probabilities, the best that any training could reach.
#
# Two preparations. We draw with 16 × 16 pixels, and we round each colour channel to eleven steps, so that colours can
# be counted; `colour_codes` gives each colour that occurs a number.

# %%
def rounded(x, levels=11):
    """Each channel on the nearest of eleven even steps from -1 to 1."""
    return ((x + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1


pixels = rounded(scenes.render(world, 16))                           # [3456, 3, 16, 16]
codes = autoregressive.colour_codes(pixels)                          # [3456, 256]
same("our rounding and the library's", pixels, autoregressive.rounded(scenes.render(world, 16)))
print(f"{codes.max() + 1} different colours")
expect("no two scenes look the same", len(codes.unique(dim=0)) == len(world))
right = oracle.prompt_accuracy(pixels, full_story)["right"]
expect("scenes of 3,456 that the oracle reads back from these", right.k, 3456, 3456)

# %% [markdown]
# How do we draw a pixel from $P(x_i \mid y)$? All right pictures are equally likely. So choose one of them at random
# and copy its pixel $i$. Then choose *again* for the next pixel. It is as if we tore up 256 right pictures and took one
# shred of each.

# %%
def pixel_by_pixel(pool, count, generator):
    """Pixel i is pixel i of a picture of the pool, chosen anew for every pixel: equation (0.5)."""
    pick = torch.randint(len(pool), (count, 1, 16, 16), generator=generator)
    return pool.gather(0, pick.expand(-1, 3, -1, -1))


pool = pixels[red_circles]                                           # [72, 3, 16, 16]
same("ours and the library's", pixel_by_pixel(pool, 4, data.rng("a")),
     autoregressive.independent_pixels(pool, 4, data.rng("a")))

# %% [markdown]
# Is this (0.5)? Two things must be true of what it draws. Each pixel, looked at alone, must have its colours as often
# as in the right pictures. And two pixels must know nothing of each other, not even two neighbours, which in a right
# picture are nearly always alike.

# %%
def neighbours(x):
    """The correlation of the red channel in two neighbouring pixels in the middle."""
    return np.corrcoef(x[:, 0, 8, 7], x[:, 0, 8, 8])[0, 1]


drawn = pixel_by_pixel(pool, 20_000, data.rng("marginals"))
both = autoregressive.colour_codes(torch.cat([pool, drawn]))          # equal numbers for equal colours
shares = [[(part == k).double().mean(0) for k in range(int(both.max()) + 1)]
          for part in (both[:72], both[72:])]                        # of each colour in each pixel
gap = (torch.stack(shares[0]) - torch.stack(shares[1])).abs().max()
expect("largest difference in the share of a colour, in any pixel", gap, 0, .02)
expect("neighbours in right pictures: correlation", neighbours(pool), .8, 1)
expect("neighbours drawn each on its own: correlation", neighbours(drawn), -.03, .03)

# %% [markdown]
# **Predict first.** Four pictures, each for the caption beneath it. Some may have been drawn as a whole, some pixel by
# pixel. Which ones were drawn pixel by pixel?

# %% jupyter={"source_hidden": true}
quiz = ["a large white cross at the right on black", "a purple square at the top left on cream",
        "a large orange ring at the bottom", "a red circle"]
chimeras = torch.cat([pixel_by_pixel(pixels[fitting(c)], 1, data.rng("quiz", c)) for c in quiz])
plot.grid(chimeras, quiz, columns=4, title="Which of these four were drawn pixel by pixel?",
          alt="Four pictures: a clean white cross; a purple square with a ragged edge; an orange ring "
          "on a background of mixed dots; and scattered dots without any shape.")

# %% [markdown]
# All four. The first caption tells everything, so one picture is right, and all 256 shreds come from it. The second
# leaves the size open, and the two sizes fight over the rim. The third leaves the background open: each background
# pixel throws its own die. The fourth leaves open where the circle is, and there is no circle.
#
# This is called a **chimera**, after the beast that is a lion in front and a goat behind. No pixel is wrong! Each has a
# colour that it has in some right picture. What is wrong is that they do not agree *with each other*.

# %%
rows = torch.cat([pool[torch.randint(72, (8,), generator=data.rng("together"))],
                  pixel_by_pixel(pool, 8, data.rng("apart"))])
marks = [read is not None for read in oracle.read(rows)]
plot.grid(rows, ["right" if m else "refused" for m in marks], marks=marks,
          rows=["pixels drawn together", "each pixel on its own"],
          title='"A red circle": it is not enough that each pixel is right, they must agree',
          alt="Upper row: eight red circles. Lower row: eight pictures of scattered dots, no circle.")

# %% [markdown]
# ### What independence costs, in bits
#
# We can say exactly how far the plan is from the truth. Write $p$ for $P(x \mid y)$ and $q$ for the product (0.5). The
# usual measure is the **Kullback–Leibler divergence**. Call $-\log_2$ of a picture's probability its *surprise*. How
# much more does a right picture surprise someone who believes $q$ than someone who knows $p$, on average?
#
# $$ \mathrm{KL}(p \,\|\, q) = \sum_x p(x)\,\big[\log_2 p(x) - \log_2 q(x)\big] . \tag{0.6} $$
#
# The first part is $-H(x)$. In the second part, the logarithm turns the product into a sum over pixels:
#
# $$ -\sum_x p(x) \log_2 q(x) = -\sum_i \sum_x p(x) \log_2 p_i(x_i)
#    = -\sum_i \sum_{c} p_i(c) \log_2 p_i(c) = \sum_i H(x_i) . $$
#
# The middle step collects all pictures in which pixel $i$ has the colour $c$; their probabilities add up to
# $p_i(c)$, which is what "marginal" means.

# %% [markdown]
# So independence costs
#
# $$ \mathrm{KL}(p \,\|\, q) = \sum_i H(x_i) - H(x) . \tag{0.7} $$
#
# Each pixel's own uncertainty, added up as if the pixels knew nothing of each other, less the uncertainty that is
# really there. We compute the left side from its definition (0.6), picture by picture, and the right side from
# entropies.

# %%
def counts(rows):
    return rows.unique(dim=0, return_counts=True)[1].tolist()


circles = codes[red_circles]                                         # [72, 256]
by_entropies = sum(entropy(counts(pixel)) for pixel in circles.T) - entropy(counts(circles))

log_p = -np.log2(72)                                                 # the same for each right picture
share = (circles[:, None] == circles[None]).double().mean(1)         # p_i(x_i) of each, [72, 256]
by_definition = float((log_p - share.log2().sum(1)).mean())
same("the two sides of (0.7)", by_entropies, by_definition)
same("ours and the library's", by_definition, autoregressive.cost_of_independence(circles))
print(f"true uncertainty {entropy(counts(circles)):.2f} bits, "
      f"cost of independence {by_entropies:.0f} bits")

# %% [markdown]
# Six bits of real doubt, and hundreds of bits of made-up doubt on top. A smaller case shows where they come from. Let
# only two pictures be right, and let them differ in $m$ pixels. Each of these pixels tosses its own coin: $m$ bits.
# In truth *one* coin was tossed for all of them: 1 bit. So the cost must be $m - 1$.

# %%
two = codes[fitting("a purple square at the top left on cream")]
m = int((two[0] != two[1]).sum())
cost_of_two = autoregressive.cost_of_independence(two)
same(f"two pictures that differ in {m} pixels: the cost and {m} - 1", cost_of_two, m - 1)
expect("chance that all coins agree, in one of the two ways", 2 * .5 ** m, 0, 1e-9)

# %% [markdown]
# ### The other direction
#
# A divergence has two directions, and they ask different things. $\mathrm{KL}(p\,\|\,q)$ asks: do right pictures
# surprise the plan? They do, by hundreds of bits. $\mathrm{KL}(q\,\|\,p)$ asks: do the plan's pictures surprise someone
# who knows the truth? There each drawn picture $x$ counts with $q(x)\log_2 \frac{q(x)}{p(x)}$, and a chimera has
# $q(x) > 0$ but $p(x) = 0$. One such picture is enough: the sum is **infinite**.
#
# (A picture that is merely rare costs many bits. A picture that is impossible costs infinitely many. Both directions
# come back in chapters 2 and 4, where they decide whether a model blurs or forgets.)

# %%
truth = {picture.numpy().tobytes() for picture in pool}
possible = sum(picture.numpy().tobytes() in truth for picture in drawn)
print(f"of 20,000 pictures drawn pixel by pixel, {possible} are possible pictures of a red circle")
expect("chimeras: q > 0 and p = 0", possible < len(drawn))

# %% [markdown]
# ### For every caption there is
#
# That was one caption. There are $(4+1)(6+1)(8+1)(2+1)(9+1) = 9450$ ways to tell some of the five facts, so we do not
# have to pick examples: we compute (0.7) for all of them.

# %%
place = (world.xy[:, 0] * 4 - 1).round().long() @ torch.tensor([1, 3])
table = torch.stack([world.background, world.shape[:, 0], world.colour[:, 0],
                     world.size[:, 0], place], 1)                    # in the order of `facts`


def cost(named):
    """The mean of (0.7) over all captions that tell these facts."""
    told = table * torch.tensor([fact in named for fact in facts])
    captions_there, caption_of = told.unique(dim=0, return_inverse=True)
    n = len(world) / len(captions_there)                             # right pictures for each caption
    number = (caption_of[:, None] * 256 + torch.arange(256)) * 1000 + codes  # caption, pixel, colour
    p = number.unique(return_counts=True)[1].double() / n
    return float(-(p * p.log2()).sum()) / len(captions_there) - np.log2(n)

# %%
one_by_one = [autoregressive.cost_of_independence(codes[fitting(f"a {c} {s}")])
              for c in scenes.COLOURS for s in scenes.SHAPES]
same("colour and shape told: all at once, and one by one",
     cost({"colour", "shape"}), np.mean(one_by_one))
bits = {k: np.mean([cost(c) for c in sets]) for k, sets in told_facts.items()}
plot.bars({f"{k} facts told": bits[k] for k in range(6)}, xlabel="KL(joint ∥ product), in bits",
          title="Independence costs about 150 bits for a fact left open, on average",
          alt="Bars from 741 bits with no fact told, down in equal steps of about 150, to 0 with five.")

# %% [markdown]
# On average: the facts are very unequal. If only one of them is left open, what it costs depends on how many pixels it
# touches.

# %%
plot.bars({f"only the {fact} left open": cost(facts.keys() - {fact}) for fact in facts},
          title="An open background costs most, an open size least",
          xlabel="KL(joint ∥ product), in bits",
          alt="Bars: 487 bits for the background, 55 for the shape, 84 for the colour, 35 for the "
          "size, 119 for the place.")

# %% [markdown]
# ### Are the pictures right?
#
# Bits are one thing; what the oracle says is another. The lecture claims that drawing each pixel on its own gives a
# chimera. **The rule, before the run:** at each length that leaves something open (0 to 4 facts told) we draw 500
# pictures pixel by pixel, 100 for each of five seeds. The claim *holds* if at the worst of these lengths at most 5 %
# are right pictures, *holds partly* if at most half are. (A pilot of 300 other pictures a length came
# first.) Beside them we draw whole pictures from $P(x \mid y)$.
#
# **Predict first.** At which length will the first right picture appear?

# %%
def drawn_for(k, seed, count=100):
    """Random captions that tell k facts; for each (caption, open facts, pixel by pixel, whole)."""
    generator, out = data.rng("drawn", k, seed), []
    for _ in range(count):
        i = int(torch.randint(len(world), (1,), generator=generator))
        named = [list(facts)[j] for j in torch.randperm(5, generator=generator)[:k]]
        fits = pixels[(table == table[i])[:, [fact in named for fact in facts]].all(1)]
        whole = fits[torch.randint(len(fits), (1,), generator=generator)]
        chimera = pixel_by_pixel(fits, 1, generator)
        out.append((say(every[i], named), facts.keys() - set(named), chimera, whole))
    return out


drawings = {(k, seed): drawn_for(k, seed) for k in range(6) for seed in range(5)}

# %%
def accuracy(rows, which):
    """The share of right pictures; which: 2 for pixel by pixel, 3 for whole."""
    x, told = torch.cat([row[which] for row in rows]), [row[0] for row in rows]
    return oracle.prompt_accuracy(x, told)["right"]


of_length = {k: sum((drawings[k, seed] for seed in range(5)), []) for k in range(6)}
alone, together = ({k: accuracy(rows, which) for k, rows in of_length.items()} for which in (2, 3))
print(f"facts told {'each pixel on its own':>30} {'drawn together':>30}")
for k in range(6):
    print(f"{k:10} {alone[k]!s:>30} {together[k]!s:>30}")

# %% jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(8.24, 3.4))
for rates, name, sign in ((together, "pixels drawn together", "s-"),
                          (alone, "each pixel on its own", "o--")):
    middle = np.array([100 * r.value for r in rates.values()])
    ends = np.array([[100 * end for end in r.interval] for r in rates.values()]).T
    ax.errorbar(range(6), middle, yerr=abs(ends - middle), fmt=sign, label=name)
ax.set(title="Pixel by pixel, a picture is right only where little is left to decide", ylim=(-4, 104),
       xlabel="facts that the caption tells, of five", ylabel="right (%), 95 % interval")
ax.legend(loc="center left")
plot.show(fig, alt="Right pictures against facts told. Drawn together: 100 % throughout. Each pixel "
          "on its own: hardly any up to three facts, about 12 % at four, 100 % at five.")

# %% [markdown]
# The first right ones come at three facts, two of 500. At four some more pass. Which ones? We sort these pictures by
# the one fact that was left open.

# %%
last = {fact: accuracy([row for row in of_length[4] if row[1] == {fact}], 2) for fact in facts}
plot.bars({f"{fact} left open": tuple(round(100 * share) for share in (rate.value, *rate.interval))
           for fact, rate in last.items()}, unit=" %",
          title="One open fact is enough to ruin most pictures, or all of them",
          xlabel="right pictures (%), with the ends of the 95 % interval",
          alt="Bars: about 34 % right with the size open, 19 % with the shape, 4 % with the colour, "
          "1 % with the place, and none with the background open.")

# %% [markdown]
# If the size is open, only the rim is in dispute, and the oracle forgives a ragged rim now and then. If the shape is
# open, the pixels in the middle agree anyway. An open colour leaves a speckled thing; if it is small, a dozen
# pixels, that passes too once in a while. An open place or background spoils nearly all.
#
# So are these lucky pictures? Or is it only the oracle that is kind to them? Our world lets us ask: is the picture,
# pixel for pixel, one of those that exist?

# %%
exist = {picture.numpy().tobytes() for picture in pixels}
lucky = sum(row[2].numpy().tobytes() in exist for k in range(5) for row in of_length[k])
kind = sum(alone[k].k for k in range(5))
print(f"of 2,500 chimeras the oracle lets {kind} pass; {lucky} are pictures that exist")

# %%
worst = max(range(5), key=lambda k: alone[k].value)                  # with most right pictures
by_seed = [100 * accuracy(drawings[worst, seed], 2).value for seed in range(5)]
claim("C01", said="Drawing each pixel on its own gives a chimera.", number=by_seed, n=100,
      rule=Rule("right pictures at the length of 0 to 4 where most are right: at most 5 % (holds), "
                "at most 50 % (partly)", lambda v: np.mean(v) <= 5, lambda v: np.mean(v) <= 50),
      sentence=f"{sum(alone[k].k for k in range(4))} of 2,000 pictures with up to three facts told are "
               f"right, and {100 * alone[4].value:.0f} % with four, nearly all of them where only the "
               "size or the shape is open. Drawn together, all are right. Pixel for pixel, "
               f"{lucky} of 2,500 exist. Independence costs {bits[2]:.0f} bits with two facts told; "
               "in the other direction the divergence is infinite.")

# %% [markdown]
# ## 4 One pixel after the other
#
# A writer does not choose all her words at once. She writes one, looks at what stands there, and writes the next.
# Nothing keeps a painter from doing the same. Number the pixels row by row from the top left, $x_1, \dots, x_{256}$
# (**raster order**), and draw each one from its distribution *given those that are already there*:
#
# $$ P(x \mid y) = \prod_i P(x_i \mid y,\, x_1, \dots, x_{i-1}) . \tag{0.8} $$
#
# Hold it against (0.5). Only the condition has become longer, but nothing is approximated any more: this is the
# **chain rule** of probability, and it is true for every distribution. Models that draw by it are called
# **autoregressive**.

# %% [markdown]
# In our world we can follow (0.8) exactly, by counting. Begin with all right pictures. Draw the first pixel from their
# first pixels; keep the pictures that agree with it; draw the second pixel from those that are left; and so on.

# %%
def one_after_the_other(rows, generator):
    """Each pixel from the rows that agree so far: (the row drawn, how many were left each time)."""
    left, how_many = np.arange(len(rows)), []
    for i, die in enumerate(torch.rand(rows.shape[1], generator=generator).tolist()):
        if len(left) > 1:                                            # else nothing is left to choose
            colours_there = rows[left, i]
            left = left[colours_there == colours_there[int(die * len(left))]]
        how_many.append(len(left))
    return int(left[0]), how_many


runs = [one_after_the_other(circles.numpy(), data.rng("one after the other", k)) for k in range(3000)]
seen = torch.bincount(torch.tensor([row for row, _ in runs]), minlength=72)
chi_square = ((seen - 3000 / 72) ** 2 / (3000 / 72)).sum()           # 71 ± 12 if all are equally likely
expect("chi-square of 3,000 drawings against 72 equal shares", chi_square, 71 - 4 * 12, 71 + 4 * 12)

# %% [markdown]
# **Predict first.** At the start 72 pictures are possible, at the end one. How does the number fall on the way: a
# little with every pixel, or in a few steps? And where in the picture are they?

# %%
fig, ax = plt.subplots(figsize=(8.24, 3.4))
for k in (0, 1, 2, 5):
    ax.step(range(257), [72, *runs[k][1]], where="post", label=f"drawing {k + 1}")
ax.set(yscale="log", xlabel="pixels drawn (16 make a row)", ylabel="still possible",
       title='"A red circle", pixel after pixel: a few pixels decide nearly everything')
ax.set_yticks([1, 4, 18, 72], ["1", "4", "18", "72"])
ax.minorticks_off()
ax.legend()
plot.show(fig, alt="Four staircases from 72 possible pictures to 1. All fall to about 18 with the "
          "first pixel, then in small steps, and to 1 where the circle begins.")

# %% [markdown]
# The first pixel already says what the background is: 18 pictures are left of 72. After that, rows of background tell a
# little: *not up here*. The first pixel of the circle tells nearly all the rest. Most of the 256 draws are no choice at
# all.
#
# In bits, this reads as follows. Take $-\log_2$ of both sides of (0.8) and average over the right pictures. A product
# becomes a sum,
#
# $$ H(x \mid y) = \sum_i H(x_i \mid y,\, x_1, \dots, x_{i-1}) , \tag{0.9} $$
#
# the **chain rule of entropy**. Compare (0.7): looking back turns a sum that was hundreds of bits too large into the
# true one.

# %%
def given_before(i, rows):
    """H(x_i | x_1 ... x_(i-1)) from its definition: over all pasts, the entropy of what can follow."""
    past = rows[:, :i].unique(dim=0, return_inverse=True)[1] if i else torch.zeros(len(rows))
    groups = [rows[past == w, i] for w in past.unique()]
    return sum(len(g) * entropy(counts(g)) for g in groups) / len(rows)


each = np.array([given_before(i, circles) for i in range(256)])
by_drawing = np.mean([[np.log2(a / b) for a, b in itertools.pairwise([72, *left])]
                      for _, left in runs], 0)
same("the sum of (0.9) and log2 72", each.sum(), np.log2(72))
expect("each term, measured on the 3,000 drawings: largest difference",
       abs(each - by_drawing).max(), 0, .08)

# %% jupyter={"source_hidden": true}
def maps(pictures, names, title, alt):
    """Bits for every pixel, as maps with one scale."""
    fig, axes = plt.subplots(1, len(pictures), figsize=(8.24, 3.4))
    top = max(np.max(p) for p in pictures)
    for ax, p, name in zip(axes, pictures, names, strict=True):
        shown = ax.imshow(np.reshape(p, (16, 16)), cmap="magma", vmin=0, vmax=top)
        ax.set_title(name, size=10)
        ax.axis("off")
    fig.colorbar(shown, ax=axes, label="bits")
    fig.suptitle(title)
    plot.show(fig, alt=alt)

# %%
own = [entropy(counts(pixel)) for pixel in circles.T]
maps([own, each],
     [f"on its own: {sum(own):.0f} bits in all", f"given those before it: {sum(each):.2f} bits"],
     "Where a red circle is decided, if pixels may look back",
     "Two maps of 16 by 16 pixels. Left: about two bits everywhere. Right: two bits in the first "
     "pixel, some specks where a circle can begin, and nothing elsewhere.")

# %% [markdown]
# ### Pictures as sentences
#
# Counting works because we can list the world. For anything larger we need a machine that looks at *any* beginning and
# tells how likely each next pixel is. Such machines exist: a language model does just this with words. In 2020 a
# language model was trained on pixels instead (Chen et al., *image GPT*). We build a small one.
#
# A language model has a vocabulary. Ours will be colours. But three channels of 256 steps make 16.7 million, far too
# many words. So we take a **palette**: a few colours, chosen such that every pixel finds a near one. The lecture says
# that 256 are usually enough. (Image GPT used 512.)

# %% [markdown]
# **The rule for the lecture's claim, before the run.** "Pixels can be drawn like words; 256 colours are enough; it
# takes $H \times W$ calls." It *holds* if (a) at least 90 of 100 complete captions are drawn right by a network of this
# kind, (b) 256 colours give at least 36 dB on pictures whose colours run into each other, and (c) a picture takes
# exactly one call for each pixel. It *holds partly* if (a) is so and one of the others is not.

# %% [markdown]
# `autoregressive.palette` chooses the colours by **k-means**: each pixel goes to its nearest colour, each colour moves
# to the mean of its pixels, and so on in turn (chapter 1 comes back to it). How much is lost? The field's measure is
# the **peak signal-to-noise ratio**, in decibels: with values from $-1$ to $1$ the largest possible difference is 2, so
#
# $$ \mathrm{PSNR} = 10 \log_{10} \frac{2^2}{\text{mean squared error}} . \tag{0.10} $$
#
# Ten decibels more are a tenth of the squared error. From 35 or 40 dB on, few eyes see a difference. Flat scenes
# would be too easy a test. So we also let light fall on them from a random side: then colours run into each other.

# %%
def lit(pictures, generator):
    """The pictures with light from a random side: half as bright at the dark end, smoothly."""
    angle = torch.rand(len(pictures), 1, 1, generator=generator) * 2 * np.pi
    across = torch.linspace(-.5, .5, 16)
    ramp = across[None, None, :] * angle.cos() + across[None, :, None] * angle.sin()  # [b, 16, 16]
    return (pictures + 1) * (.75 + .25 * ramp / ramp.abs().amax((1, 2), True))[:, None] - 1


def psnr(a, b):
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def painted_with(x, colours):
    return autoregressive.to_pictures(autoregressive.to_codes(x, colours), colours)

# %%
error = torch.full((1, 3, 16, 16), .02)                              # a hundredth of the range
same("the PSNR of this error, by hand (dB)", psnr(error, 0 * error), 20 * np.log10(2 / .02))
expect("a tenth of the squared error, more decibels",
       psnr(error / 10 ** .5, 0 * error) - psnr(error, 0 * error), 9.999, 10.001)

# %%
plain = scenes.render(scenes.single("train"), 16)                    # 3,024: no held-out pairs
shaded = lit(plain, data.rng("light"))
sizes = [4, 16, 32, 64, 128, 256]
some = shaded[torch.randperm(len(shaded), generator=data.rng("some"))[:84]]      # these are plenty
palettes = {k: autoregressive.palette(some, k) for k in sizes}
quality = {"scenes as they are": [psnr(plain, painted_with(plain, autoregressive.palette(plain, k)))
                                  for k in sizes],
           "with light from a side": [psnr(shaded, painted_with(shaded, palettes[k])) for k in sizes]}

# %%
two = shaded[[40, 1700]]
versions = [painted_with(two, palettes[k]) for k in (4, 16, 64, 256)] + [two]     # each [2, 3, 16, 16]
plot.grid(torch.stack(versions, 1).flatten(0, 1), ["4", "16", "64", "256", "all"] * 2, columns=5,
          title="The same two pictures in 4, 16, 64 and 256 colours, and as they were",
          alt="Two shaded scenes in more and more colours: bands of colour with 4 and 16, "
          "no visible ones with 256.")

# %%
plot.curves({name: (sizes, values) for name, values in quality.items()}, log="x",
            title="On average 256 colours are enough, with light or without",
            xlabel="colours in the palette", ylabel="PSNR (dB)",
            alt="Two rising lines from 4 to 256 colours; the one with light ends near 41 dB, "
            "the other near 51 dB.")

# %%
in_256 = painted_with(shaded, palettes[256])
by_picture = [psnr(a, b) for a, b in zip(shaded, in_256, strict=True)]
expect("the mean over 3,024 pictures (dB)", np.mean(by_picture), 38, 45)
expect("the worst of them (dB)", min(by_picture), 28, 33)

# %% [markdown]
# For our scenes as they are, 64 colours will do: every one of them is still read back by the oracle.

# %%
colours = autoregressive.palette(plain, 64)
words = autoregressive.to_codes(plain, colours)                      # [3024, 256]: each is a sentence
told_all = captions.write(scenes.single("train"), data.rng("told all"), complete=True)
back = oracle.prompt_accuracy(autoregressive.to_pictures(words, colours), told_all)["right"]
print(f"the first row of picture 100: {words[100, :16].tolist()}")
expect("scenes of 3,024 that the oracle reads back in 64 colours", back.k, 3024, 3024)
expect("no two of them share their codes", len(words.unique(dim=0)) == len(words))

# %% [markdown]
# ### A network that continues
#
# Caption and picture become one sequence: 16 places for the words of the caption, then 256 pixels. Each element is
# called a **token**. A table (`nn.Embedding`) turns each token into a vector of $d$ numbers; to a pixel's vector we add
# one vector for its row and one for its column, so that the network knows where it is.
#
# Then tokens must read each other. In **attention**, every token $i$ puts out a question $q_i$, a key $k_i$ and a value
# $v_i$, three vectors that are linear in its own. Where the question of $i$ fits the key of $j$, the value of $j$ flows
# to $i$:
#
# $$ \text{out}_i = \sum_{j \le i} w_{ij}\, v_j , \qquad
#    w_{ij} = \frac{\exp(q_i \cdot k_j / \sqrt d)}{\sum_{m \le i} \exp(q_i \cdot k_m / \sqrt d)} . \tag{0.11} $$

# %% [markdown]
# All that (0.8) asks for is in the two small signs $j \le i$ and $m \le i$: no token may read a later one. This is
# **causal** attention. In code, the scores of later tokens are set to $-\infty$ before the exponential. (The library
# does this four times side by side, each **head** with a quarter of the $d$ numbers, and $\sqrt{d/4}$ in (0.11).)

# %%
def causal_attention(q, k, v):
    """Equation (0.11) for all tokens at once; q, k, v [b, n, d]."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** .5               # [b, n, n]
    later = torch.ones(scores.shape[-2:]).triu(1).bool()             # j > i
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


q, k, v = torch.randn(3, 2, 10, 8, generator=data.rng("qkv"))
by_loops = torch.zeros(2, 10, 8)
for b, i in itertools.product(range(2), range(10)):
    weight = np.exp([float(q[b, i] @ k[b, j]) / 8 ** .5 for j in range(i + 1)])
    by_loops[b, i] = sum(float(w) * v[b, j] for j, w in enumerate(weight / weight.sum()))
same("attention as matrices and as the sums of (0.11)", causal_attention(q, k, v), by_loops)
same("ours and the library's", causal_attention(q, k, v), layers.attend(q, k, v, causal=True))

# %% [markdown]
# A **transformer block** is attention and then a small network on each token, each added to what came in; `PixelGPT`
# stacks a few of them, and a last linear layer turns each token into 64 numbers, one for each colour: the logits of the
# pixel that *follows*. (`inspect.getsource(autoregressive.PixelGPT)` shows it; it is about forty lines.)
#
# Does it keep to (0.8)? We do not trust the mask, we test it: change one pixel, and see which predictions move.

# %%
with train.seeded("a fresh network"):
    fresh = autoregressive.PixelGPT(autoregressive.PixelGPTConfig(colours=64, d=32, layers=2))
some_words = captions.encode(["a red circle"])
before = fresh(some_words, words[:1, :255]).detach()                 # logits of the pixels 1 ... 256
moved_by = torch.zeros(256, 8)
for column, changed in enumerate(range(0, 256, 32)):
    other = words[:1, :255].clone()
    other[0, changed] = (other[0, changed] + 7) % 64
    moved_by[:, column] = (fresh(some_words, other).detach() - before).abs().sum((0, 2))
expect("no prediction moves up to the changed pixel itself",
       not any(moved_by[:32 * c + 1, c].any() for c in range(8)))
expect("every later prediction moves", all((moved_by[32 * c + 1:, c] > 0).all() for c in range(8)))

# %% [markdown]
# ### What is it trained for?
#
# To be as little surprised as possible by right pictures. With the network's probabilities $q$ in (0.8), the surprise
# at a picture is a sum over its pixels,
#
# $$ -\log_2 q(x \mid y) = -\sum_i \log_2 q(x_i \mid y,\, x_1, \dots, x_{i-1}) . \tag{0.12} $$
#
# Training lowers the average of this over scenes and captions. All pixels of a picture are predicted in *one* pass,
# since the whole picture is there and the mask hides what comes later. This is **teacher forcing**.
#
# And our world tells us where the training must end: the average can never be less than $H(x \mid y)$, averaged over
# the captions, and what is
# above it is exactly $\mathrm{KL}(p\,\|\,q)$, as in (0.6). A mean loss below that line is not success, it is a bug.
# (That is because the training shows the *whole* world. Elsewhere a network may know its few examples by heart.)

# %% [markdown]
# We train one live, in a corner of the world that suits a minute of patience: white things on black or grey, 216 scenes
# in eight greys. The captions are written as always, so some tell everything and some nearly nothing.

# %%
world_train = scenes.single("train")
is_white = world_train.colour[:, 0] == list(scenes.COLOURS).index("white")
dark = torch.tensor([list(scenes.BACKGROUNDS).index(name) for name in ("black", "grey")])
grey = world_train[is_white & torch.isin(world_train.background, dark)]
greys = autoregressive.palette(scenes.render(grey, 16), 8).sort(0)[0]            # from dark to bright
grey_codes = autoregressive.to_codes(scenes.render(grey, 16), greys)
grey_scenes = list(grey)

# %%
def right_among(those, caption):
    """The numbers of the scenes, among those, for which the caption is right."""
    meaning = captions.parse(caption)
    return [i for i, s in enumerate(those) if all(captions.judge(s, meaning).values())]


grey_told = captions.write(grey, data.rng("grey told"))
floor = np.mean([np.log2(len(right_among(grey_scenes, caption))) for caption in grey_told])
expect("no two grey pictures share their codes", len(grey_codes.unique(dim=0)) == len(grey))
print(f"{len(grey)} scenes; the least possible: {floor:.1f} bits a picture, with these captions")

# %%
def grey_gpt(seed):
    """A small pixel GPT of the grey world before training."""
    with train.seeded("grey", seed):
        model = autoregressive.PixelGPT(autoregressive.PixelGPTConfig(colours=8, d=64, layers=2))
    model.palette.copy_(greys)
    return model


small = grey_gpt(0)
history = train.fit(small, small.loss, autoregressive.written(grey, grey_codes, 16),
                    steps=steps(800), lr=8e-3)

# %% jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(8.24, 3.4))
ax.plot(history.steps, history.smooth("bits", 20), label="pixel GPT, mean of 20 steps")
ax.axhline(floor, color=plot.COLOURS[1], ls="--", label="the least possible: H(x | y)")
ax.set(yscale="log", xlabel="training step", ylabel="bits a picture",
       title="A minute of training: from 900 bits to a few above the least possible")
ax.legend()
plot.show(fig, alt="The loss falls from 900 bits a picture to a few, "
          "towards a dashed line at about two bits.")

# %%
@torch.no_grad()
def bits_of(model, told, codes, at_once=50):
    """-log2 q(x | y) for pairs of caption and picture."""
    numbers = captions.encode(told)
    return torch.cat([model.bits(numbers[i:i + at_once], codes[i:i + at_once])
                      for i in range(0, len(told), at_once)])


excess = float(bits_of(small, grey_told, grey_codes).mean()) - floor
expect("bits a picture above the least possible, after a minute", excess, .3, 4)

# %% [markdown]
# ### What do a few bits too many mean?
#
# Say the network is $K = \mathrm{KL}(p\,\|\,q)$ bits above the line for a caption. How often will it draw a right
# picture? Let $R$ be the right pictures; then, since $p$ lives on $R$,
#
# $$ q(R) = \sum_{x \in R} p(x)\, \frac{q(x)}{p(x)} = \mathrm{E}_p\big[2^{-(\log_2 p - \log_2 q)}\big]
#    \;\ge\; 2^{-\mathrm{E}_p[\log_2 p - \log_2 q]} = 2^{-K} . \tag{0.13} $$
#
# The inequality is Jensen's: $2^{-u}$ is convex, so its mean is at least its value at the mean. One bit too many, and
# *at least* half of the pictures are right, pixel for pixel. Ten bits, and it may be one in a thousand.
#
# Both sides can be computed without drawing anything. And we can draw, and count.

# %%
asked_of = ["a star", "a small circle on black", "something large at the top left",
            "a large ring on grey"]
shares, bounds, drawn_shares, over_all = [], [], [], []
for caption in asked_of:
    fits = right_among(grey_scenes, caption)
    bits = bits_of(small, [caption] * len(fits), grey_codes[fits])
    throws = torch.rand(200, 256, generator=data.rng("draw", caption))
    *_, codes_drawn = small.path([caption] * 200, throws)
    hits = (codes_drawn[:, None] == grey_codes[fits][None]).all(-1).any(1)
    shares.append(float((2 ** -bits).sum()))                         # q(R): all right pictures, summed
    bounds.append(2 ** -(float(bits.mean()) - np.log2(len(fits))))
    drawn_shares.append(float(hits.float().mean()))
    over_all.append(float((2 ** -bits_of(small, [caption] * len(grey), grey_codes)).sum()))
expect("the network's probabilities of all 216 pictures, the largest sum", max(over_all), 0, 1.0001)
expect("q(R) and the share among 200 drawn: largest difference",
       max(abs(s - d) for s, d in zip(shares, drawn_shares, strict=True)), 0, .14)

# %% jupyter={"source_hidden": true} tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(8.24, 3))
ax.barh(range(4), shares, height=.5, color=plot.COLOURS[0], label="q(R), summed over R")
ax.plot(bounds, range(4), "|", ms=22, mew=3, color="black", label="its bound, two to the power of -K")
ax.plot(drawn_shares, range(4), "o", color=plot.COLOURS[1], label="share of 200 drawn pictures")
ax.set(yticks=range(4), yticklabels=asked_of, xlim=(0, 1),
       xlabel="share that is right, pixel for pixel",
       title="The bits too many bound the share of wrong pictures")
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=3, handlelength=1.5)
plot.show(fig, alt="For four captions, a bar, a mark left of its end, and a dot near its end.")

# %% tags=["nbval-ignore-output"]
made_now = small.paint(asked_of * 2, seed=3)
reads = [read is not None and captions.matches(read, caption)
         for read, caption in zip(oracle.read(made_now), asked_of * 2, strict=True)]
plot.grid(made_now, asked_of * 2, marks=reads, columns=4,
          title="Drawn after a minute of training, pixel after pixel",
          alt="Eight small pictures of white things on black or grey; some are clean, some misshapen.")

# %% [markdown]
# ### The same, trained for longer
#
# `weights.load("pixel-gpt")` is the same class with 0.47 million parameters for the whole of world `single`: 64
# colours, 3,024 scenes, every caption. The same loop trained it for 42 minutes on one core that it had to share.
# (`python -m minidiff train pixel-gpt` makes it again.)

# %% tags=["nbval-ignore-output"]
gpt = weights.load("pixel-gpt")
asked_now = ["a red circle", "something pink", "a small yellow star at the top right on navy",
             "a large ring"]
four_dice = torch.stack([torch.rand(256, generator=data.rng("dice", 5, i)) for i in range(4)])
drafts = list(gpt.path(asked_now, four_dice))                        # codes after 1, 2, ..., 256 pixels


def unfinished(codes):
    """A picture whose pixels are drawn up to here; the rest is paper."""
    paper = torch.full((len(codes), 256 - codes.shape[1], 3), .8)
    return torch.cat([gpt.palette[codes], paper], 1).unflatten(1, (16, 16)).movedim(-1, 1)


plot.film([unfinished(codes) for codes in drafts[15::16]], columns=4, fps=6,
          alt="Four pictures appear row by row from the top: a red circle, something pink, "
          "a yellow star, a ring.")

# %%
frames = [unfinished(drafts[i - 1]) for i in (32, 80, 128, 176, 256)]
plot.path_strip(frames, [f"{i} pixels" for i in (32, 80, 128, 176, 256)],
                title="Row by row from the top left, as one writes",
                alt="The same four pictures after 32, 80, 128, 176 and 256 pixels.")

# %% [markdown]
# **Predict first.** We ask for a hundred pictures with complete captions, and for a hundred of things that were kept
# out of its training: red stars and the five other **held-out** pairs of colour and shape. How many of each hundred
# will be right?

# %%
@torch.no_grad()
def hundred(split):
    """A hundred complete captions of a split of `single`, and their pictures."""
    those = scenes.single(split)
    pick = torch.randint(len(those), (100,), generator=data.rng("hundred", split))
    told = captions.write(those[pick], data.rng("hundred told", split), complete=True)
    return told, gpt.paint(told, seed=11)

# %%
asked_seen, drawn_seen = hundred("train")
asked_held, drawn_held = hundred("held out")
seen_right = oracle.prompt_accuracy(drawn_seen, asked_seen)["right"]
held_right = oracle.prompt_accuracy(drawn_held, asked_held)["right"]
expect("right of 100, combinations seen in training", seen_right.k, 95, 100)
expect("right of 100, pairs that were held out", held_right.k, 38, 75)
plot.bars({name: (100 * rate.value, *(100 * end for end in rate.interval)) for name, rate in
           (("combinations seen in training", seen_right), ("pairs that were held out", held_right))},
          title="What it has seen it draws; of new pairs about every second",
          xlabel="right pictures (%), 95 % interval", unit=" %",
          alt="Two bars: 99 % for combinations seen, 59 % for pairs held out.")

# %%
failed = [not (r is not None and captions.matches(r, c)) for r, c in
          zip(oracle.read(drawn_held), asked_held, strict=True)]
order = [*sorted(range(100), key=lambda i: not failed[i])[:4],
         *sorted(range(100), key=lambda i: failed[i])[:4]]
plot.grid(drawn_held[order], [asked_held[i] for i in order], marks=[not failed[i] for i in order],
          columns=4, title="Pairs that it never saw: some failures, some successes",
          alt="Two rows of four pictures: above, held-out things drawn wrongly; below, drawn right.")

# %% [markdown]
# Where it fails, it mostly keeps one word and trades the other for one that it has seen with it.

# %% [markdown]
# ### Where does it hesitate?
#
# The map of (0.9) showed where the truth is undecided. The network has such a map too: at each pixel, the entropy of
# its prediction. If it has understood the world, the two must look alike.

# %%
plain_scenes = list(scenes.single("train"))
red = right_among(plain_scenes, "a red circle")
exact = np.array([given_before(i, words[red]) for i in range(256)])
with torch.no_grad():
    logits = gpt(captions.encode(["a red circle"] * len(red)), words[red][:, :255])
p = logits.softmax(-1)                                               # [72, 256, 64]
hesitation = -(p * p.clamp(min=1e-12).log2()).sum(-1).mean(0).numpy()
maps([exact, hesitation],
     [f"the truth, by counting: {exact.sum():.1f} bits", f"the network: {hesitation.sum():.1f} bits"],
     '"A red circle": the network hesitates where there is something to decide',
     "Two maps of 16 by 16 pixels that look alike: bright in the first pixel, "
     "specks where circles begin.")
expect("correlation of the two maps", np.corrcoef(exact, hesitation)[0, 1], .97, 1)

# %%
pick = torch.randint(len(plain_scenes), (200,), generator=data.rng("bits"))
told_bits = captions.write(scenes.single("train")[pick], data.rng("bits told"))
least = np.mean([np.log2(len(right_among(plain_scenes, caption))) for caption in told_bits])
spent = float(bits_of(gpt, told_bits, words[pick]).mean())
expect("bits a picture of 200, above the least possible", spent - least, 0, .6)

# %% [markdown]
# ### What it costs
#
# A picture of 16 × 16 takes 256 calls of the network, one of 256 × 256 takes 65,536, each waiting for the one before.
# No faster machine changes the count: whoever draws by (0.8), pixel by pixel, needs a call for each. (Your staircases
# hint at a way out: most pixels can be guessed beforehand and only have to be confirmed. Chapter 9 comes back to it.)
#
# What can be saved is work *within* a call. The tokens already there do not change, and neither do their keys and
# values, so we keep them: a **key–value cache**. Then a call brings one new token, instead of reading all again.

# %%
def with_cache(k_cache, v_cache, q, k, v):
    """(0.11) for the newest token alone [b, 1, d]; the caches [b, n, d] grow by one."""
    k_cache, v_cache = torch.cat([k_cache, k], 1), torch.cat([v_cache, v], 1)
    weight = (q @ k_cache.transpose(1, 2) / q.shape[-1] ** .5).softmax(-1)           # [b, 1, n]
    return weight @ v_cache, k_cache, v_cache


q, k, v = torch.randn(3, 2, 10, 8, generator=data.rng("qkv"))
k_cache, v_cache, rows_one_by_one = k[:, :0], v[:, :0], []
for i in range(10):
    out, k_cache, v_cache = with_cache(k_cache, v_cache, *(x[:, i:i + 1] for x in (q, k, v)))
    rows_one_by_one.append(out)
same("token by token with a cache, and all at once",
     torch.cat(rows_one_by_one, 1), causal_attention(q, k, v))

# %% [markdown]
# How much is saved? Count the multiplications. A token passes through $12 d^2$ weights in each of $L$ blocks, and as
# token number $n$ it reads $n$ keys and $n$ values of $d$ numbers. So one picture of $N$ tokens costs about
#
# $$ \underbrace{\sum_{n=1}^{N} L\,(12 d^2 + 2 n d)}_{\text{with a cache}} \qquad\text{or}\qquad
#    \underbrace{\sum_{n=1}^{N} n\,L\,(12 d^2 + 2 n d)}_{\text{reading all again}} . \tag{0.14} $$

# %%
def multiplications(side, cached, d=96, blocks=4):
    """Equation (0.14) for a picture of side^2 tokens."""
    n = np.arange(1, side ** 2 + 1, dtype=float)
    return float((blocks * (12 * d * d + 2 * n * d) * (1 if cached else n)).sum())


with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
    gpt(captions.encode(["a red circle"]), words[:1, :255])
one_pass = 4 * (16 + 255) * (12 * 96 ** 2 + 2 * (16 + 255) * 96) + 271 * 96 * 64
expect("multiplications of one call over formula", counter.get_total_flops() / 2 / one_pass, .99, 1.01)
for side in (16, 256):
    ratio = multiplications(side, False) / multiplications(side, True)
    print(f"{side:3} x {side:3}: {side ** 2:6,} calls, {multiplications(side, True):.1e} "
          f"multiplications with a cache, {ratio:,.0f} times as many without")

# %% tags=["nbval-ignore-output"]
def seconds(cached, pixels=256):
    """How long one picture takes here."""
    start = time.perf_counter()
    for _ in itertools.islice(gpt.path(["a red circle"], four_dice[:1], cached=cached), pixels):
        pass
    return time.perf_counter() - start


took = {cached: min(seconds(cached) for _ in range(2)) for cached in (True, False)}
rate = multiplications(16, False) / took[False]                      # multiplications a second
for cached, name in ((True, "with a cache"), (False, "without")):
    print(f"{name:13} 16 x 16: {took[cached]:5.2f} s;   256 x 256, extrapolated: "
          f"{max(65536 * took[cached] / 256, multiplications(256, cached) / rate):13,.0f} s")

# %%
cached_codes, plain_codes = ([*gpt.path(asked_now, four_dice, cached=c)][-1] for c in (True, False))
expect("pixels that the cache changes, of 1,024", int((cached_codes != plain_codes).sum()), 0, 2)
calls = 0


def counted(module, arguments, output):
    """Counts one call of the network's last layer."""
    global calls
    calls += 1


hook = gpt.head.register_forward_hook(counted)
gpt.paint(["a red circle"])
hook.remove()
expect("calls for one picture", calls, 256, 256)

# %%
parts = [seen_right.k >= 90, quality["with light from a side"][-1] >= 36, calls == 16 * 16]
claim("C02", said="Pixels can be drawn one at a time like words, 256 colours are enough, but it takes "
      "H x W calls.", number=seen_right.k, n=seen_right.n,
      rule=Rule("at least 90 of 100 complete captions right, at least 36 dB with 256 colours and light "
                "from a side, one call a pixel: all (holds), the first (partly)",
                lambda k: k >= 90 and all(parts), lambda k: k >= 90),
      sentence=f"{seen_right.k} of 100 are drawn right, {held_right.k} of 100 with a held-out pair. "
               f"256 colours give {quality['with light from a side'][-1]:.0f} dB. A picture takes "
               f"{calls} calls, of 256 x 256 it would take 65,536.")

# %% [markdown]
# ### Break it
#
# Here is a bug that everyone writes once. The output at a token must predict the *next* pixel. Suppose the shift is
# forgotten, and the output at pixel $i$ is trained to predict pixel $i$, which it has just read.
#
# **Predict first.** Will the loss be higher or lower than before? And what will the pictures look like?

# %%
class Unshifted(autoregressive.PixelGPT):
    """A pixel GPT whose author forgot the shift."""

    def bits(self, captions, codes):
        x = torch.cat([self.words(captions), self.pixels(codes)], 1)
        logits = self.read(x)[:, self.config.length:]                # should begin one token earlier
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), codes, reduction="none")
        return nats.sum(1) / np.log(2)


with train.seeded("grey", 0):
    broken = Unshifted(autoregressive.PixelGPTConfig(colours=8, d=64, layers=2))
broken.palette.copy_(greys)
broken_history = train.fit(broken, broken.loss, autoregressive.written(grey, grey_codes, 16),
                           steps=steps(120), lr=8e-3)

# %%
expect("bits a picture of the broken network, against the least possible",
       broken_history.smooth("bits", 20)[-1] / floor, 0, .6)
plot.pair(small.paint(asked_of, seed=4), broken.paint(asked_of, seed=4), asked_of,
          names=("a minute of training", "the shift forgotten"),
          title="The better loss belongs to the network that cannot draw",
          alt="Above: four white things on dark ground. Below: flat colours.")

# %% [markdown]
# The loss is *wonderful*: after a few seconds it is below the least possible. That is the diagnosis. Nothing can
# predict better than the truth, so the network must have seen the answer. It learned to copy the token it is standing
# on. So when it draws, each pixel repeats the one before, and the first, which nothing trained it to choose, colours
# the whole picture. Its "probabilities" are none: for one caption they add up, over 216 pictures, to far more than 1.

# %%
too_much = float((2 ** -bits_of(broken, ["a star"] * len(grey), grey_codes)).sum())
expect("the broken network's probabilities for one caption, summed", too_much, 20, 216)

# %% [markdown]
#
# Keep the habit: know what the best possible loss is, and distrust anything that beats it. (Where the truth is not
# known, the perturbation test above finds the same bug.)

# %% [markdown]
# ### Older than networks
#
# The word *autoregressive* comes from statistics. One of the lectures explains: such a model predicts $x_i$ from its
# own past, "and assumes a linear relation". Udny Yule did this with sunspots in 1927, with $p = 2$. In general, and
# with Gaussian noise:
#
# $$ x_i = a_0 + a_1 x_{i-1} + \dots + a_p x_{i-p} + \sigma\,\varepsilon_i ,
#    \qquad \varepsilon_i \sim \mathcal N(0, 1) . \tag{0.15} $$
#
# With Gaussian noise, the likelihood is highest where the squared error is least, so fitting is one call of least
# squares. Where the world is like that, nothing can do better. We make such a world, with $p = 2$, and see whether the
# fit finds its numbers.

# %%
truth_a, truth_std = torch.tensor([-.7, 1.5, .1]), .3               # of x_(i-2), of x_(i-1), constant
shocks = torch.randn(50, 1000, generator=data.rng("series"))
series = autoregressive.linear_draw(truth_a, truth_std, shocks)
found_a, found_std = autoregressive.linear_ar(series, 2)
flat = (series - series.mean()).double()
r = [float((flat[:, k:] * flat[:, :1000 - k]).mean()) for k in range(3)]         # autocorrelations
by_yule = np.linalg.solve([[r[0], r[1]], [r[1], r[0]]], [r[1], r[2]])           # of x_(i-1), x_(i-2)
expect("largest error of a coefficient", (found_a - truth_a).abs().max(), 0, .02)
expect("Yule's own road, by autocorrelations: largest difference",
       abs(by_yule - found_a[:2].numpy()[::-1]).max(), 0, .02)
expect("the noise that was found, over the true one", found_std / truth_std, .987, 1.013)

# %%
wave = series[0, :120]
predicted = found_a[0] * wave[:-2] + found_a[1] * wave[1:-1] + found_a[2]
plot.curves({"the series": (range(120), wave),
             "predicted from the two before": (range(2, 120), predicted)},
            title="A world in which a linear relation to the past is the truth",
            xlabel="step", ylabel="x",
            alt="A restless wave, and close to it the prediction of each value from the two before it.")

# %% [markdown]
# And pictures? We give models the grey world without captions. One predicts each pixel by (0.15) from the $p = 34$
# pixels before it, which reach two rows up. One has the same 34 pixels, but a small network (a causal convolution) in
# place of the linear relation, and a probability for each grey in place of the Gaussian. One is pixel GPT, which sees
# all pixels before. The networks get the same training: 1,000 steps, batches of 16, three seeds
# (`python -m minidiff train grey`; the numbers are stored beside the weights).

# %% [markdown]
# **The rule, before the run.** "Predicts $x$ from its own past, a linear relation." It *holds* if the linear model
# needs at most 10 % more bits a picture than the better of the two networks; it *holds partly* if not, but all give
# probabilities from the past alone and at least one of them draws mostly legal pictures.
#
# (A fourth came after a first run, to see what makes the first so costly: 34 pixels that each add their own amounts to
# eight logits, without a hidden layer. Each network has the best of three learning rates, the Gaussian the best width;
# it gives a grey the probability between the half-way points to its neighbours.)

# %%
grey_flat = greys[grey_codes][..., 0]                                # [216, 256], grey values
a, std = autoregressive.linear_ar(grey_flat, 34)
std *= 1.3                                                           # the width with the fewest bits
linear = autoregressive.linear_bits(grey_flat, greys[:, 0], a, std)
stored = json.loads((weights.TRAINED / "grey.json").read_text())["rows"]
kinds = {"linear": "34 pixels, linear, Gaussian",
         "logistic": "34 pixels, each adds to the logits",
         "convolution": "34 pixels, a small network", "pixel gpt": "all pixels before, pixel GPT"}
bits_by = {kind: [row["bits"] for row in stored if row["model"] == kind] for kind in kinds}
legal_by = {kind: [100 * row["legal"] / row["n"] for row in stored if row["model"] == kind]
            for kind in kinds}
same("the linear model here and the stored number", float(linear.mean()), bits_by["linear"][0], 1e-3)

# %%
windows = autoregressive.past(grey_codes + 1, 34).reshape(-1, 34)     # 0: before the picture
seen_next = torch.cat([windows, grey_codes.reshape(-1, 1)], 1)
within_34 = 256 * (autoregressive.entropy(seen_next) - autoregressive.entropy(windows))
bars = {kinds[kind]: (np.mean(v), np.std(v, ddof=1)) for kind, v in bits_by.items()}
plot.bars(bars | {"the least possible with 34 pixels": within_34, "the truth": np.log2(len(grey))},
          title="Gaussian noise wastes 270 bits; seeing only 34 pixels wastes five",
          xlabel="bits a picture (three seeds)",
          alt="Bars: 278 bits for the linear model with Gaussian noise, about 17 where each pixel adds "
          "to the logits, 13 for the small network, 12.7 the least with 34 pixels, about eight for "
          "pixel GPT, 7.75 the truth.")

# %% tags=["nbval-ignore-output"]
noise = torch.randn(4, 256, generator=data.rng("linear pictures"))
clouds = autoregressive.linear_draw(a, std, noise).reshape(4, 1, 16, 16).expand(-1, 3, -1, -1)
plot.grid(torch.cat([clouds.clamp(-1, 1), small.paint(["something"] * 4, seed=8)]), columns=4,
          rows=["linear in 34 pixels", "pixel GPT"],
          title="From its own past, the linear model draws clouds; pixel GPT draws things",
          alt="Above: four pictures of cloudy grey noise. Below: four white things on dark ground.")

# %%
ratio = [line / min(conv, deep) for line, conv, deep in
         zip(*(bits_by[kind] for kind in ("linear", "convolution", "pixel gpt")), strict=True)]
most_legal = max(np.mean(v) for v in legal_by.values())
in_words = "; ".join(f"{kinds[kind]}: {np.mean(bits_by[kind]):.3g} bits, "
                     f"{np.mean(legal_by[kind]):.0f} % legal" for kind in kinds)
claim("C65", said="An autoregressive model predicts x from its own past, a linear relation.",
      number=ratio, n=len(grey),
      rule=Rule("bits of the linear model over the better of the two networks: at most 1.1 (holds); "
                "above, and at least half of one model's pictures legal (partly)",
                lambda v: np.mean(v) <= 1.1, lambda v: most_legal >= 50),
      sentence="From its own past, yes; linear only where the world is. Grey pictures, of which the "
               f"truth needs {np.log2(len(grey)):.2f} bits: {in_words}. With 34 pixels no model "
               f"can need less than {within_34:.2f}.")

# %% [markdown]
# So pixel by pixel works, after all: not each on its own, but each after the others. The price is the queue, one call
# for each pixel. From here on the course looks for ways to draw all pixels at once *and* let them agree.

# %% [markdown]
# ## 5 Noise in, picture out
#
# What about a network that makes one picture straight from the sentence, $x = g(y)$? It has no dice at all. The usual
# training would ask it to be close to the right pictures in squared error. Whatever picture $g$ it settles on, with
# $\mu = \mathrm{E}[x \mid y]$ the mean of the right pictures,
#
# $$ \mathrm{E}\,\|x - g\|^2 = \mathrm{E}\,\|x - \mu\|^2 + \|\mu - g\|^2 , \tag{0.16} $$
#
# because the cross term $2\,\mathrm{E}[x - \mu] \cdot (\mu - g)$ is zero. The first part does not depend on $g$. The
# second is smallest, zero, at $g = \mu$. So the best single answer is the **mean of all right pictures**, and we can
# look at it.

# %%
mean = pool.mean(0, keepdim=True)
g = pool[7:8]                                                        # any other picture
left_side = (pool - g).square().sum((1, 2, 3)).mean()
right_side = (pool - mean).square().sum((1, 2, 3)).mean() + (mean - g).square().sum()
same("the two sides of (0.16)", left_side, right_side)
expect("no right picture is a better single answer than the mean",
       all((pool - mean).square().mean() < (pool - other).square().mean() for other in pool))
four = torch.cat([pool[7:8], mean, pixel_by_pixel(pool, 1, data.rng("ghost")), pool[40:41]])
names = ["a right picture", "the mean of all: a ghost", "each pixel on its own",
         "another right picture"]
plot.grid(four, names, columns=4,
          title="Without dice we get a ghost, with a die for every pixel a chimera",
          alt="Four pictures: a red circle; a dull brown blur; scattered dots; another red circle.")

# %% [markdown]
# No dice: a ghost. A die for each pixel: a chimera. What is in between? **Dice that all pixels share.**
#
# That is the recipe of every model in this course. Draw random numbers $z$ from a simple distribution, nearly
# always the normal one. Give them to a machine together with the sentence. The machine turns both into a picture,
#
# $$ x = g(y, z), \qquad z \sim \mathcal N(0, I) , \tag{0.17} $$
#
# and it must do so such that, over all $z$, the pictures come out as often as $P(x \mid y)$ demands.
#
# In world `single` we can build such a machine with a list. Let $\Phi$ be the share of the normal distribution that
# lies below $z$. It turns $z$ into a number between 0 and 1, all equally likely; we cut this line into $n$ equal
# pieces, one for each right picture.

# %%
def shared_die(caption, z):
    """One number z for the whole picture; z [b, 1]."""
    fits = pixels[fitting(caption)]
    return fits[(torch.special.ndtr(z[:, 0]) * len(fits)).long().clamp(max=len(fits) - 1)]


z = torch.randn(14_400, 1, generator=data.rng("z"))
often = shared_die("a red circle", z).unique(dim=0, return_counts=True)[1]
expect("different pictures that come out", len(often), 72, 72)
chi_square = ((often - 200) ** 2 / 200).sum()                        # 71 ± 12 if (0.3) holds
expect("chi-square of 14,400 pictures against equal shares", chi_square, 71 - 4 * 12, 71 + 4 * 12)

# %% [markdown]
# The plan of part 3 fits the same mould: it takes 256 numbers, one for each pixel.
#
# **Predict first.** Suppose we give it 256 *equal* numbers. What will it draw?

# %%
def die_for_each_pixel(caption, z):
    """A number for each of the 256 pixels; z [b, 256]."""
    fits = pixels[fitting(caption)]
    pick = (torch.special.ndtr(z) * len(fits)).long().clamp(max=len(fits) - 1).reshape(-1, 1, 16, 16)
    return fits.gather(0, pick.expand(-1, 3, -1, -1))


z = torch.randn(4, 256, generator=data.rng("dice"))
apart = die_for_each_pixel("a red circle", z)
shared = die_for_each_pixel("a red circle", z[:, :1].expand(-1, 256))
plot.pair(apart, shared, names=("256 dice", "one die, thrown for all"),
          title="The same machine twice. Below, all pixels share one die",
          alt="Above: four pictures of scattered dots. Below: four clean red circles.")

# %% [markdown]
# Nothing else has changed, and the chimera is gone. If you keep one thing from this chapter, keep this pair of rows.
#
# Shared does not mean few. The opening's model takes 256 numbers, too. But there every number can touch every pixel; in
# part 3, pixel $i$ saw number $i$ alone.
#
# Of course, the list is cheating. World `single` has 3,456 pictures, and we looked through all of them. Photographs
# cannot be listed, so $g$ has to be *learned* from examples. How to learn it is where the families of models part, and
# what the next chapters are about.

# %% [markdown]
# ### Is it really the noise?
#
# The lecture says that every generator maps simple noise to pictures, and that without this extra input a caption gets
# just one picture. We test four machines: the two above, pixel GPT, and the model that painted the opening. That one,
# too, is a function of a caption and noise, $4 \times 8 \times 8$ normal numbers. (Its loop comes from chapter 5. Here
# only its arguments matter.)
#
# Pixel GPT looks like an exception: nobody gives it a $z$ at the start, it draws from its own predictions on the way.
# But every draw uses up one random number. Fix these 256 numbers beforehand, and it is a function of them, too.

# %%
@torch.no_grad()
def painter(caption, z, steps=25):
    """The opening's model as a function of the noise z [b, 256]."""
    z, denoise = z.reshape(-1, 4, 8, 8), model.denoise([caption] * len(z), "", 3.)
    for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1)):
        x0 = denoise(z, t)
        (a_t, s_t), (a_s, s_s) = model.schedule(t), model.schedule(s)
        z = a_s * x0 + s_s * (z - a_t * x0) / s_t
    return model.autoencoder.decode(z).clamp(-1, 1)


def pixel_gpt(caption, z):
    """Pixel after pixel; z [b, 256] becomes the dice of the 256 pixels."""
    *_, codes = gpt.path([caption] * len(z), torch.special.ndtr(z))
    return autoregressive.to_pictures(codes, gpt.palette)

# %%
machines = {"each pixel on its own": die_for_each_pixel, "from the list": shared_die,
            "pixel GPT": pixel_gpt, "text-to-image": painter}
asked = ["something", "a star", "a red circle", "a small white square"]

# %% [markdown]
# For each machine and each of four captions we make eight pictures with the noise *varied*. Then we make one picture
# twice with the noise *fixed* (the same $z$ both times), and one twice with the noise *removed* ($z = 0$). We count how
# many different pictures come out.
#
# **The rule, before the run.** A machine passes on a caption if the varied noise gives at least two different pictures,
# and both others exactly one. The claim *holds* so far if all sixteen pairs pass, *holds partly* if some do. Later
# chapters add their machines to this table. (With equal noise, a machine can differ only if dice are hidden inside it.
# What is really tested is that the noise matters. Whether the pictures are any good is asked further down.)

# %%
def different(pictures, step=.05):
    """How many of the pictures are new: somewhere more than `step` away from each one before."""
    far = (pictures[:, None] - pictures[None]).abs().amax((2, 3, 4)) > step
    return sum(bool(far[i, :i].all()) for i in range(len(pictures)))


inputs = torch.randn(8, 256, generator=data.rng("eight"))
noises = {"varied": inputs, "fixed": inputs[:1].expand(2, -1), "removed": torch.zeros(2, 256)}
made = {(name, how, caption): machine(caption, z) for name, machine in machines.items()
        for how, z in noises.items() for caption in asked}
number_of = {key: different(x) for key, x in made.items()}
for name in machines:
    print(f"{name:22}", *(f"{how} {[number_of[name, how, c] for c in asked]}  " for how in noises))

# %%
strip = [made["text-to-image", how, caption][:n] for caption in ("a star", "a red circle")
         for how, n in (("varied", 5), ("removed", 1))]
expect("length of the noise, the shortest of the eight", inputs.norm(dim=1).min(), 14, 18)
plot.grid(torch.cat(strip), ([""] * 5 + ["no noise"]) * 2, columns=6,
          rows=['"a star"', '"a red circle"'],
          title="Five draws of noise, five pictures; without noise, always the same one",
          alt="Two rows, for a star and a red circle: five different paintings each, and one from "
          "zero noise.")

# %% [markdown]
# The last picture of a row need not be right; it may even be empty. The length of 256 normal numbers is about 16,
# hardly ever below 14. $z = 0$ has length 0: it is the middle of all noise and unlike any of it, and training never
# showed the model such a start. Here it only matters that the same picture comes out each time.
#
# Different pictures might still show the same scene with a different smudge. The oracle can tell: how many different
# *scenes*, told in words, are among the eight?

# %%
def scenes_shown(pictures):
    """How many different scenes the oracle reads in the pictures, each told in words."""
    read = [scene for scene in oracle.read(pictures) if scene is not None]
    return len({(s.background, *sorted((t.shape, t.colour, t.size, t.place) for t in s.things))
                for s in read})


shown = {name: np.mean([scenes_shown(made[name, "varied", c]) for c in asked]) for name in machines}
expect("different scenes in eight pictures, text-to-image", shown["text-to-image"], 6, 8)
expect("different scenes in eight pictures, from the list", shown["from the list"], 6, 8)
expect("different scenes in eight pictures, each pixel on its own",
       shown["each pixel on its own"], 0, .5)

# %%
passed = [number_of[name, "varied", c] > 1 == number_of[name, "fixed", c]
          == number_of[name, "removed", c] for name in machines for c in asked]
claim("C03", said="Every generator maps simple noise to pictures; without an extra random input there "
      "is one picture per caption.", number=np.mean(passed), n=len(passed),
      rule=Rule("share of (machine, caption) pairs with at least 2 different pictures of 8 if the "
                "noise varies, and 1 if it is fixed or removed: all (holds), some (partly)",
                lambda v: v == 1, lambda v: v > 0),
      sentence=f"So for {sum(passed)} of {len(passed)} pairs of the first four machines, pixel GPT "
               "among them: its noise is a die for each pixel. But noise is not enough: pixels that "
               "neither share it nor look at each other make chimeras.")

# %% [markdown]
# ## 6 The map of the course
#
# Every family learns a machine $g$ that turns noise into pictures, the **decoder**. To know *which* noise belongs to
# *which* picture, most also have an **encoder** for the way back. Who learns what is much of the difference. (The three
# cells that draw the map are folded; a click on the three dots opens one.)

# %% jupyter={"source_hidden": true}
families = [("pixel by pixel, in order", None, "learned", "a call for each pixel"),
            ("mixture of Gaussians", None, "fitted", "one draw"),
            ("VAE", "learned", "learned", "one call"),
            ("flow", "learned", "its inverse", "one call"),
            ("GAN", None, "learned", "one call"),
            ("diffusion", "adds noise", "learned", "25 to 1000 calls"),
            ("latent diffusion", "learned, then\nadds noise", "learned, then\nlearned",
             "25 calls and one")]


def box(ax, x, y, text):
    """A word in a box: blue if it is learned."""
    fill = "#BFDDF0" if "learned" in text or text == "fitted" else "#E4E4E4"
    look = {"boxstyle": "round,pad=.4", "fc": fill, "ec": "#777777"}
    ax.text(x, y, text, ha="center", va="center", size=9, bbox=look)

# %% jupyter={"source_hidden": true}
def draw_family(ax, y, encoder, decoder):
    """Picture -> encoder -> z -> decoder -> picture; without an encoder it begins at z."""
    z = "z" if y else "z₁ z₂ …"                                      # row 0: one die after the other
    ax.text(5.72, y, z, size=11 if y else 9, ha="right", va="center")
    box(ax, 7.1, y, decoder)
    middles, arrows = [8.95], [(5.85, 6.25), (8., 8.5)]
    if encoder:
        box(ax, 4.3, y, encoder)
        middles, arrows = [2.8, *middles], [(3.2, 3.5), (5.1, 5.45), *arrows]
    for middle in middles:
        ax.imshow(thumb, extent=(middle - .36, middle + .36, y - .36, y + .36))
    for start, end in arrows:
        ax.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "->", "color": "#444444"})

# %% jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(8.24, 5.4))
thumb = plot.to_uint8(scenes.render(scenes.Scenes.of([scene])))[0]
heads = {0: "chapter, family", 4.3: "encoder", 5.62: "noise", 7.1: "decoder",
         9.6: "to draw one picture"}
for x, head in heads.items():
    ax.text(x, .8, head, color=plot.COLOURS[0], size=10, va="center",
            ha="left" if x in (0, 9.6) else "center")
for y, (name, encoder, decoder, calls) in enumerate(families):
    ax.text(0, -y, f"{y}  {name}", size=9.5, va="center")
    ax.text(9.6, -y, calls, size=9.5, va="center")
    draw_family(ax, -y, encoder, decoder)
ax.set(xlim=(-.05, 11.9), ylim=(-6.5, 1.1), aspect="equal",
       title="One recipe, seven families: they differ in what is learned (blue)")
ax.axis("off")
plot.show(fig, alt="Seven families as chains: picture, encoder, noise, decoder, picture. The VAE "
          "learns both, the flow only the encoder, the GAN only the decoder; "
          "the encoder of diffusion adds noise.")

# %% [markdown]
# Read it from top to bottom. A **VAE** learns both ways. A **flow** learns one way so that it can be run backwards. A
# **GAN** learns only the way out, and a judge tells it how well it does. **Diffusion** gets its encoder for free, it
# just adds noise, and spends many small steps on the way out. **Latent diffusion** puts a diffusion inside an
# auto-encoder, and that is what painted our opening.
#
# Only the first row breaks the pattern, and you have built it: pixel GPT throws its dice *one after the other*, each
# pixel seeing those before it, as a writer sees the words already written. The pixels agree because later ones look.

# %% [markdown]
# ## 7 Exercises
#
# Six of them, from a warm-up to an open one. Write your answer in place of the `...` and run the cell: `check` tries it
# on many inputs, and says what is right, or what fails and where. If you are stuck, `ex.q1.hint()` gives a first hint,
# called again the next one, and `ex.q1.solution()` shows one way to do it. You may leave any of them open: the notebook
# runs on.

# %%
from exercises import ch00 as ex

# %% [markdown]
# **Exercise 1: bits.** How many bits does a caption leave open? Write `bits_left(caption)` for world `single`, with all
# of its 3,456 scenes. For "a red circle" it should be the 6.17 of part 2, and for a caption that tells everything 0.

# %%
def bits_left(caption):
    """How many bits the caption leaves open in world `single`."""
    ...


ex.q1.check(bits_left)

# %% [markdown]
# **Exercise 2: a ring.** Equation (0.1) is the signed distance of a circle. Now find that of a ring, which lies between
# the radii `r_in` and `r_out`: negative in the body of the ring, positive outside *and in its hole*. Its absolute value
# is the distance to the nearest point of an edge, and a ring has two edges. `u` and `v` are tensors that broadcast, as
# in `circle_by_hand`.

# %%
def ring(u, v, r_out, r_in):
    """Signed distance to a ring between two radii; negative in its body."""
    ...


ex.q2.check(ring)

# %% [markdown]
# **Exercise 3: what independence costs, with weights.** We computed (0.7) for equally likely pictures. In most
# collections some pictures are commoner than others. Write (0.7) for them: row $k$ of `codes` is a picture of $d$
# pixels and comes with probability `p[k]`. Three things to think of: the answer is in bits; two rows may show the same
# picture; and a probability may be 0.

# %%
def weighted_cost(codes, p):
    """sum_i H(x_i) - H(x) in bits; codes [n, d] whole numbers, p [n] adds up to 1."""
    ...


ex.q3.check(weighted_cost)

# %% [markdown]
# **Exercise 4: who may look at whom.** In part 4 no token reads a later one. For the caption this is stricter than it
# needs to be: all of it is given before the first pixel is drawn, so its tokens may all look at each other. Take a
# sequence of $n$ tokens, the first `prefix` of them the caption, the others pixels. A caption token may look at the
# whole caption and at no pixel. A pixel may look at the whole caption, at the pixels before it and at itself, and at
# none after it. Write this as a table of True and False: row $i$, column $j$ is True if token $i$ may look at $j$.

# %%
def prefix_mask(n, prefix):
    """[n, n], True where token i (row) may look at token j (column)."""
    ...


ex.q4.check(prefix_mask)

# %% [markdown]
# **Exercise 5: draw in order.** If we are given each of the conditionals in (0.8), we can draw from the joint
# distribution exactly, one pixel after the other. You get a function: `conditional(past)` takes the pixels drawn so far
# of all pictures, `[n, i]`, at first `[n, 0]`, and returns a table `[n, k]`, in each row the probabilities of the $k$
# colours of the next pixel. Draw $n$ pictures at once, and throw all dice with `generator`. The check draws 20,000
# pictures and compares them with the exact joint distribution.

# %%
def sample_chain(conditional, length, n, generator):
    """n pictures, [n, length] whole numbers: x_i ~ conditional(x_0 ... x_(i-1))."""
    ...


ex.q5.check(sample_chain)

# %% [markdown]
# **Exercise 6: a few dice (open).** One shared die draws right pictures, but what it decides is a number in a list,
# which means nothing to us. Build a machine $x = g(y, z)$ with *five* dice, one for each fact: $z$ holds five normal
# numbers for each picture, in an order of your choice. Every right picture must come equally often, whatever the
# caption tells, and throwing one die again may change one fact only.
#
# (`captions.parse` tells what a caption says; the dice live between 0 and 1 after `torch.special.ndtr`.) When it
# passes, play with it: fix four dice and turn the fifth. Models that must *learn* such a code rarely find one
# that people can read; chapter 2 tries. Could you do it with fewer than five dice, if you drop the last demand? And why
# would one die per fact not do in a world where no red thing is ever a star?

# %%
def one_die_per_fact(caption, z):
    """g(y, z): pictures [b, 3, 16, 16]; z [b, 5] normal numbers, one for each fact."""
    ...


ex.q6.check(one_die_per_fact)

# %% [markdown]
# ## 8 What to remember
#
# 1. A sentence leaves most of a picture open. The target is a distribution, $P(x \mid y)$, not a picture; openness is
#    counted in bits, $\log_2$ of the number of right pictures if they are equally likely.
# 2. Pixels drawn each on its own are right one by one and wrong together. The cost is $\sum_i H(x_i) - H(x)$ bits.
# 3. The chain rule draws pixel after pixel without any loss, but it takes a call of the network for each.
# 4. With no noise at all, squared error leads to the mean of the right pictures: a ghost.
# 5. The recipe is shared noise: $x = g(y, z)$ with $z \sim \mathcal N(0, I)$. The families differ in how they learn
#    $g$.
#
# **The lecture said, we measured**

# %%
claims_table()

# %% [markdown]
# ## Further reading
#
# - C. E. Shannon, *A Mathematical Theory of Communication*, Bell System Technical Journal, 1948. Where bits come from;
#   the first pages need no preparation.
# - A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu, *Pixel Recurrent Neural Networks*, ICML 2016, arXiv:1601.06759.
#   Pixels drawn one after the other.
# - M. Chen, A. Radford, R. Child and others, *Generative Pretraining from Pixels*, ICML 2020. A language model that
#   draws.
# - A. Ramesh and others, *Zero-Shot Text-to-Image Generation*, ICML 2021, arXiv:2102.12092. The first DALL·E: pieces of
#   pictures as words.
# - R. Rombach and others, *High-Resolution Image Synthesis with Latent Diffusion Models*, CVPR 2022, arXiv:2112.10752.
#   The plan of the model that painted our opening.
#
# **Next:** an old family, and the only one whose every number can be worked out exactly: mixtures of Gaussians.
