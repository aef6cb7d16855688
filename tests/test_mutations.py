"""The mathematical core with one error planted at a time: the named test must fail, and must pass without the error."""

import pytest
from mutations import survives

# (module, the test that must fail): [(original text, mutated text), ...]
MUTATIONS = {
    ("autoregressive", "test_autoregressive::test_cost_is_the_divergence_by_its_definition"): [
        ("for pixel in codes.unbind(1)) - entropy(codes)", "for pixel in codes.unbind(1))"),
        ("-(p * p.log2()).sum()", "-(p * p.log()).sum()"),
    ],
    ("autoregressive", "test_autoregressive::test_probabilities_of_all_pictures_add_up_to_one"): [
        ("self.read(x)[:, self.config.length - 1:]", "self.read(x)[:, self.config.length:]"),
        ("block(x, causal=True, past=cache)", "block(x, causal=False, past=cache)"),
        ("F.pad(self.colour(codes), (0, 0, self.p, 0))", "F.pad(self.colour(codes), (0, 0, self.p - 1, 1))"),
    ],
    ("autoregressive", "test_autoregressive::test_pictures_are_drawn_as_often_as_their_probability_says"): [
        ("(p.cumsum(-1) < die[:, None])", "(p.cumsum(-1) > die[:, None])"),
    ],
    ("autoregressive", "test_autoregressive::test_a_cache_changes_nothing_but_the_work"): [
        ("self.pixels(codes[:, -1:], m - 1)", "self.pixels(codes[:, -1:], m)"),
    ],
    ("autoregressive", "test_autoregressive::test_linear_probabilities_of_all_sequences_add_up_to_one"): [
        ("for edge in (edges[k], edges[k + 1])", "for edge in (edges[k], edges[k + 1] + .1)"),
        ("edges[0], edges[-1] = -torch.inf, torch.inf", "edges[0], edges[-1] = -2., 2."),
    ],
    ("autoregressive", "test_autoregressive::test_linear_probabilities_are_those_of_drawing_and_rounding"): [
        ("(edge - mean).double() / std", "(edge - mean).double() / std ** 2"),
    ],
    ("autoregressive", "test_autoregressive::test_linear_probabilities_far_out_are_scipys"): [
        ("torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)", "low, high"),
    ],
    ("layers", "test_layers::test_causal_attention_is_its_formula"): [
        (".tril()", ".tril(-1)"),
    ],
    ("layers", "test_layers::test_a_cache_gives_what_reading_all_at_once_gives"): [
        ("torch.cat([past[0], k], 2)", "torch.cat([k, past[0]], 2)"),
    ],
    ("schedules", "test_schedules::test_cosine_table_against_fifty_digits"): [
        ("\n        s = 0.008", "\n        s = 0.08"),
        ("/ T + s) / (1 + s)) ** 2", "/ T + s) / (1 + s))"),
        ("clamp(max=0.999)", "clamp(max=0.99)"),
    ],
    ("schedules", "test_schedules::test_linear_table_at_the_values_of_the_paper"): [
        ("linspace(1e-4, 0.02, T,", "linspace(0.1 / T, 20 / T, T,"),
    ],
    ("schedules", "test_schedules::test_linear_table_is_the_product_of_one_minus_beta"): [
        ("cumprod(1 - beta, 0)", "cumprod(1 - beta**2, 0)"),
    ],
    ("schedules", "test_schedules::test_every_step_finds_its_own_entry_from_float32"): [
        ("alpha_bar.sqrt(), (1", "alpha_bar, (1"),
        ("torch.round(exact_time(t) * self.T)", "(t * self.T)"),
    ],
    ("schedules", "test_schedules::test_the_table_is_where_the_forward_chain_arrives"): [
        ("(1 - alpha_bar).sqrt()", "1 - alpha_bar.sqrt()"),
        ("(exact_time(t) * self.T)", "(exact_time(t) * (self.T - 1))"),
    ],
    ("schedules", "test_schedules::test_trigonometric_is_a_quarter_turn"): [
        ("sin(math.pi / 2 * (1 - t))", "cos(math.pi * t)"),
        ("sin(math.pi / 2 * (1 - t))", "cos(math.pi / 2 * t)"),
    ],
    ("schedules", "test_schedules::test_rectified_walks_a_straight_line_from_data_to_noise"): [
        ("return 1 - t, t", "return t, 1 - t"),
    ],
    ("schedules", "test_denoiser::test_velocity_is_the_slope_of_x_in_time"): [
        ("* x0 + like(sigma, x0) * eps", "* x0 - like(sigma, x0) * eps"),
    ],
    ("schedules", "test_schedules::test_each_row_has_its_own_noise_level"): [
        ("like(sigma, x0) * eps", "like(sigma**2, x0) * eps"),
    ],
    ("schedules", "test_schedules::test_like_multiplies_row_by_row"): [
        ("[1] * (x.ndim - 1)", "[1] * (x.ndim - 2)"),
    ],
    ("schedules", "test_schedules::test_times_run_from_noise_to_data_on_the_grid"): [
        ("linspace(1, 0, n + 1,", "linspace(1, 0, n,"),
        ("torch.round(t * T) / T", "t"),
    ],
    ("schedules", "test_schedules::test_times_that_make_no_sense_are_refused"): [
        ("(t >= 0) & (t <= 1)", "(t <= 1)"),
    ],
    ("denoiser", "test_denoiser::test_v_is_the_slope_of_x_along_the_angle"): [
        ("(-sigma, alpha)", "(sigma, alpha)"),
        ("(-sigma, alpha)", "(-alpha, sigma)"),
    ],
    ("denoiser", "test_denoiser::test_velocity_is_the_slope_of_x_in_time"): [
        ("(-torch.ones_like(alpha), torch.ones_like(alpha))", "(torch.ones_like(alpha), -torch.ones_like(alpha))"),
    ],
    ("denoiser", "test_denoiser::test_all_four_targets_give_the_posterior_mean"): [
        ("det = alpha * b - sigma * a", "det = alpha * b + sigma * a"),
        ("det = alpha * b - sigma * a", "det = sigma * b - alpha * a"),
        ("-sigma / det", "sigma / det"),
        ("1 / alpha, b / det", "1 / alpha, a / det"),
    ],
    ("denoiser", "test_denoiser::test_a_clean_picture_is_its_own_answer"): [
        ("clean = sigma == 0", "clean = sigma < 0"),
    ],
    ("denoiser", "test_denoiser::test_eps_is_refused_where_no_picture_is_left"): [
        ("(det == 0) & (sigma > 0)", "(det == 0) & (sigma < 0)"),
    ],
    ("denoiser", "test_denoiser::test_eps_and_x0_are_asked_for_by_name"): [
        ("like(a, x0) * x0 + like(b, x0) * eps", "like(b, x0) * x0 + like(a, x0) * eps"),
    ],
    ("denoiser", "test_denoiser::test_the_loss_is_least_at_the_posterior_mean"): [
        ("- asked).square().mean()", "- asked).abs().mean()"),
    ],
    ("denoiser", "test_denoiser::test_the_net_sees_one_exact_time_a_row_and_the_condition_untouched"): [
        ("torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
    ],
    ("samplers", "test_samplers::test_ancestral_step_is_the_posterior_of_bayes_on_a_grid"): [
        ("(alpha_t / alpha_s) ** 2 * sigma_s**2", "(alpha_t / alpha_s) * sigma_s**2"),
        ("sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2", "1 - (alpha_t / alpha_s) ** 2"),
        ("if large else sigma_s / sigma_t)", "if not large else sigma_s / sigma_t)"),
        ("std = var.sqrt() * (", "std = var * ("),
    ],
    ("samplers", "test_samplers::test_ancestral_step_has_the_coefficients_printed_in_the_ddpm_paper"): [
        ("alpha_t / alpha_s * (sigma_s / sigma_t) ** 2", "alpha_t / alpha_s * (sigma_s / sigma_t)"),
        ("like(alpha_s * var / sigma_t**2, x)", "like(alpha_t * var / sigma_t**2, x)"),
    ],
    ("samplers", "test_samplers::test_the_last_step_lands_on_the_guess"): [
        ("torch.sign(sigma_s) if", "1 if"),
    ],
    ("samplers", "test_samplers::test_a_wise_denoiser_is_right_in_one_step"): [
        ("(x - like(alpha_t, x) * x0) / like(sigma_t, x)", "(x - x0) / like(sigma_t, x)"),
        ("like(sigma_s, x) * eps_hat", "like(sigma_t, x) * eps_hat"),
        ("step(x, x0, schedule(t), schedule(s))", "step(x, x0, schedule(s), schedule(t))"),
    ],
    ("samplers", "test_samplers::test_eta_one_is_the_ancestral_step_and_eta_scales_its_noise"): [
        (".sqrt() * sigma_s / sigma_t\n", ".sqrt() * sigma_t / sigma_s\n"),
        ("std = eta * added", "std = eta**2 * added"),
    ],
    ("samplers", "test_samplers::test_every_eta_keeps_the_noise_level"): [
        ("(sigma_s**2 - std**2)", "(sigma_s**2 + std**2)"),
        ("(sigma_s**2 - std**2).clamp(min=0).sqrt()", "(sigma_s**2 - std**2)"),
    ],
    ("samplers", "test_samplers::test_evaluations_are_counted"): [
        ("x0 = denoise(x, t)\n            x = step(", "x0 = denoise(x, s)\n            x = step("),
        ("if 0 < i < len(times) - 2", "if 0 < i < len(times)"),
    ],
    ("samplers", "test_samplers::test_slope_is_the_direction_in_which_x_turns"): [
        ("(like(alpha / r**2, x) * x - x0)", "(like(alpha / r, x) * x - x0)"),
        ("* like(r / sigma, x)", "* like(1 / sigma, x)"),
    ],
    ("samplers", "test_samplers::test_solvers_show_their_order"): [
        ("(slope(x, x0, at) + slope(there", "(slope(x, x0, at) - slope(there"),
        ("denoise(there, s)", "denoise(there, t)"),
        ("h / (2 * h_before)", "h / h_before"),
        ("* (x0 - before)", "* (before - x0)"),
    ],
    ("samplers", "test_samplers::test_dpm_solver_takes_uneven_steps"): [
        ("h / (2 * h_before)", "h_before / (2 * h)"),
    ],
    ("samplers", "test_samplers::test_a_picture_depends_on_its_seed_and_place_and_not_on_the_batch"): [
        ('rng("start", seed, first + i)', 'rng("start", seed, i)'),
    ],
    ("samplers", "test_samplers::test_streams_of_noise_are_normal_and_unrelated"): [
        ('rng("steps", seed', 'rng("start", seed'),
    ],
    ("guidance", "test_guidance::test_guidance_follows_the_score_of_the_sharpened_density"): [
        ("away + scale * (positive(x, t) - away)", "away + (1 + scale) * (positive(x, t) - away)"),
        ("(positive(x, t) - away)", "(away - positive(x, t))"),
    ],
    ("guidance", "test_guidance::test_one_doubled_batch_is_the_same_as_two"): [
        ("x0, away = both", "away, x0 = both"),
        (".repeat(2)", ".repeat_interleave(2)"),
    ],
    ("guidance", "test_guidance::test_scale_one_is_off_and_does_not_pay_for_the_negative"): [
        ("if scale == 1:", "if scale == 0:"),
    ],
    ("guidance", "test_guidance::test_clamp_is_the_nearest_picture_in_range"): [
        (".clamp(low, high)", ".tanh()"),
    ],
}
PLANTED = [(module, *texts, test) for (module, test), pairs in MUTATIONS.items() for texts in pairs]


@pytest.mark.parametrize("module, original, mutated, test", PLANTED)
def test_a_planted_error_is_noticed(module, original, mutated, test):
    assert not survives(module, original, mutated, test), f"{test} passes although {original!r} became {mutated!r}"


@pytest.mark.parametrize("test", sorted({test for _, test in MUTATIONS}))
def test_without_an_error_nothing_is_noticed(test):
    assert survives("samplers", "Pair = tuple[Tensor, Tensor]", "Pair = tuple[Tensor, Tensor]", test)
