"""The exercises of chapter 5: in one go, a step back, picture and noise, fewer steps, the least loss, your own path."""
import itertools
import math

import torch

from minidiff import data
from minidiff.schedules import like, rectified, times, trigonometric

from . import Exercise, Wrong, brief, differs, misshapen, unlike


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 5, key), dtype=torch.float64)


def any_unlike(got, want, what, usual=None):
    """What is wrong with a tuple, whose parts are wanted by name; usual: the tables of usual mistakes, by name, too."""
    if not isinstance(got, tuple | list) or len(got) != len(want):
        return f"The result is {brief(got)}; it should be a tuple ({', '.join(want)})."
    faults = (unlike(part, want[name], f"{what} {name}", (usual or {}).get(name, {}))
              for part, name in zip(got, want, strict=True))
    return next(filter(None, faults), None)


# --- 1 in one go ------------------------------------------------------------------------------------------------------

def in_one_go(beta):
    """(alpha, sigma), both [T]: x_k = alpha_k x0 + sigma_k eps, for steps x_k = sqrt(1 - beta_k) x + sqrt(beta_k) z."""
    alpha_bar = (1 - beta).cumprod(0)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def step_by_step(in_one_go):
    """What each step does to the mean and to the variance of the noise."""
    beta, means, variances = .05 + .5 * random(6, key="steps").sigmoid(), [1.], [0.]
    for b in beta.tolist():
        means.append(means[-1] * (1 - b) ** .5)
        variances.append(variances[-1] * (1 - b) + b)
    alpha, sigma = torch.tensor([means, [v ** .5 for v in variances]], dtype=torch.float64)
    late, root = "After the first step alpha is sqrt(1 - beta_1), not 1.", "That is the variance; sigma is its root."
    shrink = "Old noise shrinks in each step, too, so the betas do not simply add up."
    usual = {"alpha": {late: alpha[:-1], "1 - beta is what a step keeps of a variance; take its root.": alpha[1:] ** 2},
             "sigma": {late: sigma[:-1], root: sigma[1:] ** 2, shrink: beta.cumsum(0).sqrt()}}
    return any_unlike(in_one_go(beta), {"alpha": alpha[1:], "sigma": sigma[1:]}, "With 6 steps", usual)


def many_steps_and_a_last_one(in_one_go):
    """5,000 small steps are an exponential, and beta = 1 leaves nothing of the picture; beta stays what it was."""
    beta = torch.tensor([1e-4] * 5000 + [1], dtype=torch.float64)
    alpha = torch.tensor([(1 - 1e-4) ** (k / 2) for k in range(1, 5001)] + [0], dtype=torch.float64)
    what = "With 5,000 steps of beta = 1e-4 and a last one of beta = 1"
    if wrong := any_unlike(in_one_go(beta), {"alpha": alpha, "sigma": (1 - alpha ** 2).sqrt()}, what):
        return wrong + " The last step leaves nothing of the picture: alpha = 0, sigma = 1."
    kept = beta.clone()
    in_one_go.function(kept)
    return None if kept.equal(beta) else "Afterwards the numbers in beta have changed; make new tensors for the result."


q1 = Exercise(
    "`in_one_go(beta)`: many small steps of noise as a single one.",
    solved=in_one_go, properties=[step_by_step, many_steps_and_a_last_one],
    hints=["Put the first step into the second. What stands before $x_0$? What is the variance of all the rest?",
           "If $x_0$ has variance 1, so has every $x_k$: alpha² and sigma² add up to 1.",
           "`(1 - beta).cumprod(0)` is $\\bar\\alpha$ after each step; alpha and sigma are roots."],
    right="It is what the steps do one by one, thousands of them, too.")


# --- 2 a step back ----------------------------------------------------------------------------------------------------

def step_back(x, x0, at, to):
    """Mean, like x, and std [] of q(x_s | x_t, x0); at, to: (alpha, sigma) at t and at s, which has less noise."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    a = alpha_t / alpha_s
    var = sigma_t ** 2 - a ** 2 * sigma_s ** 2
    mean = a * (sigma_s / sigma_t) ** 2 * x + alpha_s * var / sigma_t ** 2 * x0
    return mean, var.sqrt() * sigma_s / sigma_t


def case(*numbers):
    """x, x0, and (alpha, sigma) at t and at s from four numbers."""
    four = [torch.tensor(number, dtype=torch.float64) for number in numbers]
    return random(2, 3, key=f"x {numbers}"), random(2, 3, key=f"x0 {numbers}"), tuple(four[:2]), tuple(four[2:])


def bayes(x, x0, at, to):
    """Mean and std of x_s, from q(x_t | x_s) q(x_s | x0) at 30,001 places."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    between, s = sigma_t ** 2 - (alpha_t / alpha_s * sigma_s) ** 2, torch.linspace(-15, 15, 30_001).double()[:, None]
    log_p = -(x.flatten() - alpha_t / alpha_s * s) ** 2 / between - (s - alpha_s * x0.flatten()) ** 2 / sigma_s ** 2
    p = (log_p / 2).softmax(0)
    mean = (p * s).sum(0)
    return mean.reshape(x.shape), float((p * (s - mean) ** 2).sum(0)[0].sqrt())


def as_bayes_says(step_back):
    """Variance preserving, straight, and with noise that only grows."""
    vp = "1 - (alpha_t/alpha_s)² is the fresh noise only where alpha² + sigma² = 1; take var_{t|s}."
    swapped = "`at` is where we are, with more noise; `to` is where we go."
    for numbers in ((.28, .96, .8, .6), (.2, .8, .5, .5), (.1, .9, .8, .2), (1., 3., 1., 1.2)):
        x, x0, at, to = case(*numbers)
        (mean, std), (alpha_t, sigma_t), (alpha_s, sigma_s) = bayes(x, x0, at, to), at, to
        a = alpha_t / alpha_s
        beta, from_x = 1 - a ** 2, a * (sigma_s / sigma_t) ** 2 * x
        usual = {
            "mean": {"x_t tells something about x_s as well, beside x0.": mean - from_x,
                     swapped: q2.solved(x, x0, to, at)[0], "x and x0 are swapped.": bayes(x0, x, at, to)[0],
                     vp: from_x + alpha_s * beta / sigma_t ** 2 * x0},
            "std": {"That is the root of var_{t|s}, the step's fresh noise; x0 narrows it by sigma_s/sigma_t.":
                    std * float(sigma_t / sigma_s), "That is the variance; the std is its root.": std ** 2,
                    vp: float(beta.sqrt() * sigma_s / sigma_t), swapped: math.nan}}
        what = f"From (alpha, sigma) = {brief(at)} to {brief(to)} the"
        if wrong := any_unlike(step_back(x, x0, at, to), {"mean": mean, "std": std}, what, usual):
            return wrong
    return None


def both_ends_of_the_way(step_back):
    """Into the data x0 is the answer; from pure noise x_t says nothing."""
    for numbers, what in (((.6, .8, 1., 0.), "Into the data (sigma_s = 0) the"),
                          ((0., 1., .7, .3), "From pure noise (alpha_t = 0) the")):
        x, x0, at, to = case(*numbers)
        if wrong := any_unlike(step_back(x, x0, at, to), {"mean": to[0] * x0, "std": float(to[1])}, what):
            return wrong + " Here it is alpha_s x0, give or take sigma_s; divide by nothing that can be 0."
    return None


q2 = Exercise(
    "`step_back(x, x0, at, to)`: where a step leads if the picture is known.",
    solved=step_back, properties=[as_bayes_says, both_ends_of_the_way],
    hints=["By Bayes' rule it is, up to a factor, $q(x_t \\mid x_s)\\, q(x_s \\mid x_0)$: a product of two bells.",
           "$x_t$ is $a\\, x_s$ and noise of variance $\\sigma_t^2 - a^2 \\sigma_s^2$, with $a = \\alpha_t/\\alpha_s$.",
           "Inverse variances add up; the variance becomes $\\sigma_{t|s}^2\\, \\sigma_s^2 / \\sigma_t^2$."],
    right="It is what Bayes says on a fine grid, on every schedule and at both ends.")


# --- 3 picture and noise ----------------------------------------------------------------------------------------------

def picture_and_noise(x, v, alpha, sigma):
    """(x0, eps), both [b, c, h, w], from x = alpha x0 + sigma eps and v = alpha eps - sigma x0; alpha, sigma [b]."""
    alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    square = alpha ** 2 + sigma ** 2
    return (alpha * x - sigma * v) / square, (sigma * x + alpha * v) / square


def mixed(alphas, sigmas, *shape):
    """Inputs of `picture_and_noise`, and what it should give back."""
    alpha, sigma = torch.tensor([alphas, sigmas], dtype=torch.float64)
    x0, eps = (random(len(alpha), *shape, key=f"{name} {alphas}") for name in ("x0", "eps"))
    x = torch.stack([a * p + s * e for p, e, a, s in zip(x0, eps, alpha, sigma, strict=True)])
    v = torch.stack([a * e - s * p for p, e, a, s in zip(x0, eps, alpha, sigma, strict=True)])
    return (x, v, alpha, sigma), {"x0": x0, "eps": eps}


def one_picture_comes_apart(picture_and_noise):
    """What was mixed from known x0 and eps."""
    for a, s in ((.6, .8), (.7, .3), (1., 2.)):
        inputs, want = mixed([a], [s], 2, 3, 4)
        (x, v), (x0, eps), square = inputs[:2], want.values(), a ** 2 + s ** 2
        whole, sign, order = "alpha² + sigma² need not be 1; divide by it.", "Mind the sign.", "x0 comes before eps."
        usual = {"x0": {whole: square * x0, sign: (a * x + s * v) / square, order: eps},
                 "eps": {whole: square * eps, sign: (s * x - a * v) / square, order: x0}}
        if wrong := any_unlike(picture_and_noise(*inputs), want, f"With alpha = {a:g} and sigma = {s:g}", usual):
            return wrong
    return None


def each_row_has_its_level(picture_and_noise):
    """Three pictures that are three wide: a wrong axis would not stop."""
    inputs, want = mixed([.9, .5, .2], [.1, .5, 1.1], 3, 3, 3)
    wrong = any_unlike(picture_and_noise(*inputs), want, "With three pictures, each at a level of its own,")
    return wrong and wrong + " alpha[:, None, None, None] is a number a row; alpha alone goes along the width."


def the_ends_come_apart(picture_and_noise):
    """alpha = 0 and sigma = 0: x is one of the two, and v the other."""
    inputs, want = mixed([0., 1.], [1., 0.], 1, 2, 3)
    wrong = any_unlike(picture_and_noise(*inputs), want, "At pure noise (alpha = 0) and at the data (sigma = 0)")
    return wrong and wrong + " Neither alpha nor sigma may stand alone below a fraction."


q3 = Exercise(
    "`picture_and_noise(x, v, alpha, sigma)`: two mixtures, taken apart.",
    solved=picture_and_noise, properties=[one_picture_comes_apart, each_row_has_its_level, the_ends_come_apart],
    hints=["Two equations, two unknowns. Multiply one with alpha, the other with sigma, so that eps drops out.",
           "$\\alpha x - \\sigma v = (\\alpha^2 + \\sigma^2)\\, x_0$; eps comes out in the same way.",
           "`alpha[:, None, None, None]` is [b, 1, 1, 1]: one number a row."],
    right="Every row comes apart at its own level, pure noise and pure pictures, too.")


# --- 4 fewer steps ----------------------------------------------------------------------------------------------------

def fewer_steps(alpha_bar, kept):
    """The betas of a chain that has only the kept steps, a rising list that ends with T, at their old noise levels."""
    left = alpha_bar[[0, *kept]]
    return 1 - left[1:] / left[:-1]


def table(beta):
    """alpha_bar [T + 1]."""
    return torch.cat([torch.ones(1).double(), (1 - beta).cumprod(0)])


def the_same_levels(fewer_steps):
    """Multiplied up, the new betas give the old alpha_bar."""
    beta = .02 + .3 * random(12, key="beta").sigmoid()
    for kept in ([2, 3, 7, 12], [1, 5, 12]):
        got, want = fewer_steps(table(beta), kept), table(beta)[kept]
        if wrong := misshapen(got, want, fewer_steps.call):
            return wrong + " The first kept step starts at 0, where alpha_bar is 1: there is one beta for each in kept."
        spans = [beta[i:j] for i, j in itertools.pairwise([0, *kept])]
        usual = {"Those are the old betas at the kept steps; a long step adds more noise.": [b[-1] for b in spans],
                 "1 - alpha_bar is all noise since step 0; a step adds what came since the one before.": 1 - want,
                 "The betas between do not add up: 1 - beta is what multiplies.": [b.sum() for b in spans],
                 "1 - beta is a ratio of alpha_bar itself, without a root.": [1 - (1 - b).prod().sqrt() for b in spans]}
        usual = {advice: table(torch.stack(list(wrong)))[1:] for advice, wrong in usual.items()}
        if wrong := unlike(table(got)[1:], want, f"For kept = {kept} the new alpha_bar", usual):
            return wrong
    return None


def every_step_and_a_single_one(fewer_steps):
    """Nothing left out: the old betas. All but T left out: one leap, even to pure noise."""
    beta = .02 + .3 * random(7, key="all").sigmoid()
    if wrong := differs(fewer_steps(table(beta), list(range(1, 8))), beta, "With every step kept, beta", tol=1e-6):
        return wrong + " Nothing was left out, so these are the old ones."
    beta[-1], one, what = 1, torch.ones(1).double(), "With only T kept, where alpha_bar is 0, beta"
    return differs(fewer_steps(table(beta), [7]), one, what, tol=1e-6)


q4 = Exercise(
    "`fewer_steps(alpha_bar, kept)`: a shorter chain with the same noise levels.",
    solved=fewer_steps, properties=[the_same_levels, every_step_and_a_single_one],
    hints=["In the long chain alpha_bar falls by the factor 1 - beta in each step. So it does in the short one.",
           "From one kept step to the next, 1 - beta is a ratio of two alpha_bar; before the first there is step 0.",
           "`alpha_bar[[0, *kept]]` are the levels; divide each by the one before it."],
    right="The kept steps have the levels they had, whether all are kept or one.")


# --- 5 the least loss -------------------------------------------------------------------------------------------------

def least_loss(width, alpha, sigma):
    """The least mean squared errors for eps, x0 and v of a network that sees x_t, if x0 ~ N(0, width^2 I)."""
    variance = alpha ** 2 * width ** 2 + sigma ** 2                      # of x_t
    x0 = width ** 2 * sigma ** 2 / variance
    return alpha ** 2 * width ** 2 / variance, x0, width ** 2 * (alpha ** 2 + sigma ** 2) ** 2 / variance


def left_open(width, alpha, sigma):
    """Variances of x_t, eps, x0 and v, and what is left of the last three if x_t is known, by determinants."""
    of = torch.tensor([[alpha * width, sigma], [0, 1], [width, 0], [-sigma * width, alpha]], dtype=torch.float64)
    c = of @ of.T                                                        # x0 = width z, so all are sums of z and eps
    return c.diag().tolist(), [float(torch.linalg.det(c[[0, i]][:, [0, i]]) / c[0, 0]) for i in (1, 2, 3)]


def what_x_leaves_open(least_loss):
    """Normal numbers, one of them known."""
    for width, alpha, sigma in ((.5, .8, .6), (2., .3, .7), (1.5, 1., 3.)):
        (own, left), (_, narrow) = left_open(width, alpha, sigma), left_open(width ** .5, alpha, sigma)
        want = {"eps": left[0], "x0": left[1], "v": left[2]}
        usual = {name: {"Even a perfect network does not know which part of x_t is noise.": 0.,
                        "That is the target's own variance, and x_t tells something about it.": own[i + 1],
                        "width is a standard deviation; the variance is its square.": narrow[i],
                        "The order is eps, x0, v.": left[(1, 0, 2)[i]]}
                 for i, name in enumerate(want)}
        tied = "Given x_t, the errors of eps and x0 are tied; they do not add up like variances."
        sums = "Only where alpha² + sigma² = 1 is it the sum of the other two."
        usual["v"] |= {tied: alpha ** 2 * left[0] + sigma ** 2 * left[1], sums: left[0] + left[1],
                       "alpha² + sigma² need not be 1.": width ** 2 / own[0]}
        what = f"With width = {width:g}, alpha = {alpha:g}, sigma = {sigma:g} the least loss for"
        if wrong := any_unlike(least_loss(width, alpha, sigma), want, what, usual):
            return wrong
    return None


def at_the_ends(least_loss):
    """No noise, no picture, only one picture."""
    for inputs, wants in (((1.5, 1., 0.), (1., 0., 1.)), ((1.5, 0., 1.), (0., 2.25, 2.25)), ((0., .8, .6), (0, 0, 0))):
        what = "With width = {:g}, alpha = {:g}, sigma = {:g} the least loss for".format(*inputs)
        if wrong := any_unlike(least_loss(*inputs), dict(zip(("eps", "x0", "v"), wants, strict=True)), what):
            return wrong + " What does x_t tell there?"
    return None


q5 = Exercise(
    "`least_loss(width, alpha, sigma)`: what no network can learn.",
    solved=least_loss, properties=[what_x_leaves_open, at_the_ends],
    hints=["The best answer is the mean of the target given $x_t$, and its loss is the variance that is left.",
           "Of normal numbers, Var(y given x) = Var y - Cov(x, y)² / Var x. With $x_t$, the covariance of $x_0$ is "
           "alpha width², and that of eps is sigma.",
           "Given $x_t$, an error $e$ in $x_0$ is one of $-\\alpha e / \\sigma$ in eps. What does that make of v?"],
    right="It is the variance that x_t leaves, with no noise and with nothing but noise, too.")


# --- 6 a path of your own ---------------------------------------------------------------------------------------------

@torch.no_grad()
def my_path(denoise, x, times, schedule):
    """Yield (x_s, x0_hat) after each step: Heun in the angle, which goes with the mean of two slopes."""
    def slope(x, x0, alpha, sigma):                                      # of x / r: (alpha eps_hat - sigma x0) / r
        return (alpha * (x - alpha * x0) / sigma - sigma * x0) / torch.hypot(alpha, sigma)

    for t, s in zip(times[:-1], times[1:], strict=True):
        at, to = schedule(t), schedule(s)
        x0 = denoise(x, t)
        there = to[0] * x0 + to[1] / at[1] * (x - at[0] * x0)            # DDIM
        if to[1] > 0:
            v = (slope(x, x0, *at) + slope(there, denoise(there, s), *to)) / 2
            turn = torch.atan2(to[1], to[0]) - torch.atan2(at[1], at[0])
            there = torch.hypot(*to) * (x / torch.hypot(*at) + turn * v)
        x = there
        yield x, x0


class Bells:
    """Data N(mean, width^2), each column its own: exact guesses, which are counted, and where the ODE leads."""
    mean, width = torch.tensor([.5, -1., 2.]).double(), torch.tensor([.5, 1., 2.]).double()

    def __init__(self, schedule):
        self.schedule, self.x, self.guesses = schedule, random(6, 3, key="start"), 0

    def denoise(self, x, t):
        """E[x0 | x_t]."""
        self.guesses += 1
        alpha, sigma = (like(c, x) for c in self.schedule(t))
        gain = alpha * self.width ** 2 / (alpha ** 2 * self.width ** 2 + sigma ** 2)
        return self.mean + gain * (x - alpha * self.mean)

    def exact(self, s):
        """The ODE's x_s if it begins at pure noise, x."""
        alpha, sigma = self.schedule(s)
        return alpha * self.mean + torch.hypot(alpha * self.width, sigma) * self.x


def walked(my_path, bells, times):
    """The pairs that the path yields and how many guesses were made by each; Wrong if they are no such pairs."""
    bells.guesses, pairs, guesses, n = 0, [], [], len(times) - 1
    path = my_path(bells.denoise, bells.x, times, bells.schedule)
    if not hasattr(path, "__next__"):
        raise Wrong(f"{my_path.call} is {brief(path)}; it should be a generator, with a `yield` in each step.")
    try:
        for pair in itertools.islice(path, n + 1):
            pairs.append(pair)
            guesses.append(bells.guesses)
    except Exception as error:
        raise Wrong(f"After {len(pairs)} of {n} steps {my_path.call} stops with {brief(error)}.") from error
    for k, pair in enumerate(pairs, 1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise Wrong(f"{my_path.call} yields {brief(pair)}; it should yield pairs (x_s, x0_hat).")
        for part, name in zip(pair, ("x_s", "x0_hat"), strict=True):
            if wrong := misshapen(part, bells.x, f"After step {k} of {n}, {name}"):
                raise Wrong(wrong + " At sigma = 0, and at alpha = 0, mind what you divide by.")
    if len(pairs) != n:
        raise Wrong(f"For a list of {n + 1} times there should be one pair after each of {n} steps; "
                    f"{'fewer' if len(pairs) < n else 'more'} came.")
    return pairs, guesses


def two_guesses_a_step_and_no_dice(my_path):
    """As many pairs as steps, at most two guesses for each, the same end twice."""
    bells = Bells(trigonometric)
    pairs, guesses = walked(my_path, bells, times(5))
    for k, count in enumerate(guesses, 1):
        if count > 2 * k:
            return f"After step {k} the picture has been guessed {count} times; at most two guesses a step are allowed."
    if pairs[0][0] is pairs[-1][0]:
        return "All steps yield one tensor, written over and over; `x = x + ...` makes a new one, `x += ...` does not."
    if torch.equal(pairs[0][0], bells.x):
        return "The first pair still holds the x of the start; yield x_s after the step, not before it."
    same = torch.allclose(pairs[-1][0], walked(my_path, bells, times(5))[0][-1][0])
    return None if same else "Twice from the same x, and the ends differ; there should be no dice on the way."


def twice_the_steps_a_quarter_of_the_error(my_path):
    """The order from 8, 16 and 32 steps; rules of second order come out at 1.6 to 2, of first order below 1."""
    for schedule in (trigonometric, rectified):
        bells, errors = Bells(schedule), []
        for n in (8, 16, 32):
            x, _ = walked(my_path, bells, times(n))[0][-1]
            errors.append(float((x - bells.exact(times(1)[1])).square().mean().sqrt()))
        order = math.log2(max(errors[0], 1e-12) / max(errors[2], 1e-12)) / 2
        if order < 1.5 and errors[2] > 1e-8:
            return (f"With 8, 16 and 32 steps of the {schedule.__name__} schedule the end is off by {brief(errors)}: "
                    f"order {order:.2f}. It should be about 2, a quarter of the error for twice the steps. "
                    "A slope from the beginning alone gives 1.")
    return None


def through_the_times_of_the_list(my_path):
    """Uneven times: at each of them x is near the exact curve, and the guess near an exact guess."""
    bells, uneven = Bells(rectified), times(64) ** 1.5
    pairs, exact = walked(my_path, bells, uneven)[0], [bells.exact(t) for t in uneven]
    guesses = [bells.denoise(x, t) for x, t in zip(exact, uneven, strict=True)]
    for k, (x, _) in enumerate(pairs, 1):
        if (off := float((x - exact[k]).abs().max())) > .05:
            return (f"After step {k} of 64 uneven ones, at time {float(uneven[k]):.3f}, x_s is {off:.2f} off the exact "
                    "path. Each step should go from times[k] to times[k + 1] and yield x_s there, and then x0_hat.")
    for k, (_, x0) in enumerate(pairs, 1):
        if min(float((x0 - guess).abs().max()) for guess in guesses[k - 1:k + 1]) > .15:
            return f"After step {k} of 64 x0_hat is no guess of the picture; it should be what `denoise` said."
    return None


q6 = Exercise(
    "`my_path(denoise, x, times, schedule)`: a sampler of your own, of second order.",
    solved=my_path, properties=[two_guesses_a_step_and_no_dice, twice_the_steps_a_quarter_of_the_error,
                                through_the_times_of_the_list],
    hints=["A step of DDIM trusts the guess at its beginning. Look at where it leads, and guess once more from there.",
           "Go with the mean of the two slopes. In sigma / alpha the first slope is infinite; in the angle none is.",
           "The last step ends at sigma = 0, where a slope would be divided by 0: there DDIM alone is good enough."],
    right="Twice the steps leave about a quarter of the error, on both schedules and at uneven times.")
