"""The mathematical core with one error planted at a time: the named test must fail, and must pass without the error."""

import pytest
from mutations import survives

# (module, the test that must fail): [(original text, mutated text), ...]
MUTATIONS = {
    ("latent", "test_latent::test_slerp_turns_evenly_and_keeps_the_length"): [
        ("for v in (1 - u, u))", "for v in (u, 1 - u))"),
        ("2 / math.pi * torch.atan2", "1 / math.pi * torch.atan2"),
        ("(v * torch.sinc(v * turn)", "(v * torch.sinc(turn)"),
        ("(turn > 1 - 1e-6).any()", "(turn > 1).any()"),
    ],
    ("likelihood", "test_likelihood::test_the_terms_add_up_to_the_bound_by_its_definition"): [
        ("for c in (added * (to[1] / at[1]) ** 2, var)", "for c in (added, var)"),
        ("like(to[0] * added / at[1] ** 2, x0)", "like(added / at[1] ** 2, x0)"),
        ("true / var - 1 - (true / var).log()", "true / var - 1 + (true / var).log()"),
        ("far.double().square() / var) / 2", "far.double().square() / var)"),
        ("Bound(kl_to_normal(alpha", "Bound(0 * kl_to_normal(alpha"),
        ("-log_last(met(torch.tensor(inner))[0]", "-log_last(met(torch.tensor(inner - 1))[0]"),
        ("* x0 + like(at[1], x0) * next(eps)", "* x0 + like(at[1] ** 2, x0) * next(eps)"),
    ],
    ("likelihood", "test_likelihood::test_the_last_term_without_levels_is_a_density"): [
        ("wide(guess[1], x0).double().sqrt()", "wide(guess[1], x0).double()"),
    ],
    ("likelihood", "test_likelihood::test_the_last_term_of_rounded_pictures_is_a_probability"): [
        ("low.masked_fill(low < -1, -math.inf)", "low"),
        ("(step.round() + half) * 2 / (levels - 1)", "(step.round() + half) * 2 / levels"),
        ("log_mass((low - mean) / std", "log_mass((low + mean) / std"),
    ],
    ("likelihood", "test_likelihood::test_drawn_terms_have_the_right_mean"): [
        ("step_kl(*met(i), x0) * inner / len(which)", "step_kl(*met(i), x0)"),
        ("step_kl(*met(i), x0) * inner / len(which)", "step_kl(*met(i), x0) * (inner + 2) / len(which)"),
    ],
    ("likelihood", "test_likelihood::test_strata_are_one_of_each_stretch_and_all_equally_likely"): [
        ("(torch.arange(k)[:, None] + dice) * n / k", "(0 * torch.arange(k)[:, None] + k * dice) * n / k"),
    ],
    ("likelihood", "test_likelihood::test_a_row_has_its_own_noise_and_terms"): [
        ('rng("bound", seed, first + i)', 'rng("bound", seed, i)'),
        ("range(first, first + len(x0))", "range(len(x0))"),
    ],
    ("likelihood", "test_likelihood::test_the_density_of_one_gaussian_at_second_order"): [
        ("alpha / r - r * div.double()", "alpha / r + r * div.double()"),
        ("log_det + turn * (div + div_s) / 2", "log_det - turn * (div + div_s) / 2"),
        ("log_det + turn * (div + div_s) / 2", "log_det + turn * div_s"),
        ("turn.to(y) * (v + v_s) / 2, log_det", "turn.to(y) * v, log_det"),
        ("y * r.to(y), t, schedule", "y / r.to(y), t, schedule"),
        ("* r / sigma\n", "/ sigma\n"),
        ("torch.ones(()).double()) + log_det", "torch.ones(()).double())"),
    ],
    ("likelihood", "test_likelihood::test_a_schedule_of_another_scale_is_the_same_model"): [
        ("-x0[0].numel() * levels[0][1].log()", "x0[0].numel() * levels[0][1].log()"),
    ],
    ("likelihood", "test_likelihood::test_by_autograd_is_the_trace_of_the_jacobian"): [
        ("[0].flatten(1)[:, i] for i", "[0].flatten(1)[:, 0] for i"),
    ],
    ("likelihood", "test_likelihood::test_the_mean_over_all_probes_is_the_trace"): [
        (".flatten(2).sum(2).mean(0)", ".flatten(2).sum(2).sum(0)"),
        ("retain_graph=True)[0] * e", "retain_graph=True)[0]"),
    ],
    ("likelihood", "test_likelihood::test_the_divergence_is_the_posterior_variance"): [
        ("alpha / sigma ** 2 * square.sum(1)", "square.sum(1) / sigma ** 2"),
        ("r @ b.square() - mean.square()", "r @ b.square()"),
        ("(r @ a).expand_as(x).sum(1) + alpha", "alpha"),
    ],
    ("variances", "test_variances::test_widths_of_all_steps_are_those_of_the_paper"): [
        ("torch.where(end, 2 * t, t)", "torch.where(end, 3 * t, t)"),
        ("(to[1] / at[1]) ** 2\n", "(to[1] / at[1])\n"),
        ("(to[1] / at[1]) ** 2\n", "(to[1] / at[1]) ** 0\n"),
    ],
    ("variances", "test_variances::test_the_path_is_the_ancestral_sampler_s"): [
        (".sqrt().to(x) * torch.sign(like(to[1], x))", ".sqrt().to(x)"),
        ("wide(var, x).sqrt()", "wide(var, x)"),
    ],
    ("variances", "test_variances::test_learned_widths_lie_between_the_two"): [
        ("(v * high + (1 - v) * low).exp()", "(v * low + (1 - v) * high).exp()"),
        ("v, low, high = (u + 1) / 2", "v, low, high = u"),
    ],
    ("variances", "test_variances::test_the_bound_teaches_the_width_alone"): [
        ("self.solved(x, t, answer.detach())", "self.solved(x, t, answer)"),
    ],
    ("variances", "test_variances::test_the_hybrid_s_bound_is_the_bound_a_number"): [
        ("T * nats.sum() / x0.numel()", "nats.sum() / x0.numel()"),
        ("(t - 1 / T).clamp(min=0)", "(t - 2 / T).clamp(min=0)"),
    ],
    ("likelihood", "test_variances::test_the_hybrid_s_bound_is_the_bound_a_number"): [
        ("nats[last] = -log_last(", "nats[last] = log_last("),
    ],
    ("dit", "test_dit::test_a_block_is_its_formula"): [
        ("x = x + gate * part((1 + scale)", "x = x + gate * part(scale"),
        ("(self.mlp, told[3:])", "(self.mlp, told[:3])"),
    ],
    ("dit", "test_dit::test_a_new_block_hands_on_what_it_was_given"): [
        ("self.told = zeroed(nn.Linear(d, 6 * d))", "self.told = nn.Linear(d, 6 * d)"),
    ],
    ("dit", "test_dit::test_without_places_patches_could_change_theirs"): [
        (".flatten(2).transpose(1, 2)) + self.place", ".flatten(2).transpose(1, 2))"),
    ],
    ("dit", "test_dit::test_places_know_rows_from_columns"): [
        ("torch.cat([rows, columns], -1)", "torch.cat([rows, rows], -1)"),
    ],
    ("ddpm", "test_ddpm::test_times_are_the_steps_of_the_table_alike_often"): [
        ("torch.randint(1, self.config.T + 1, (n,))", "torch.randint(self.config.T, (n,))"),
    ],
    ("ddpm", "test_ddpm::test_a_sample_is_the_samplers_and_depends_on_its_seed_and_row"): [
        ("seed, first=first).to(next", "seed).to(next"),
        ("self.schedule, step=step)", "self.schedule)"),
    ],
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
    ("autoencoder", "test_autoencoder::test_kl_to_normal_is_the_mean_of_log_q_minus_log_p"): [
        ("(mean.square() + std.square() - 1) / 2 - std.log()", "(mean.square() + std.square() - 1) / 2 + std.log()"),
        ("(mean.square() + std.square() - 1) / 2 - std.log()", "(mean.square() + std.square() - 1) - std.log()"),
        ("(mean.square() + std.square() - 1) / 2 - std.log()", "(mean.square() + std - 1) / 2 - std.log()"),
    ],
    ("autoencoder", "test_autoencoder::test_log_normal_is_the_product_of_densities"): [
        ("- std.log() - math.log(2 * math.pi) / 2", "- std - math.log(2 * math.pi) / 2"),
        ("((x - mean) / std).square() / 2", "((x - mean) / std).square()"),
        ("- math.log(2 * math.pi) / 2)", "- math.log(2 * math.pi))"),
        (".expand_as(x).sum(-1)", ".expand_as(x).mean(-1)"),
    ],
    ("autoencoder", "test_autoencoder::test_with_the_true_posterior_every_draw_is_log_p"): [
        ("log_normal(z, mean, std) - log_normal(z, *STANDARD)", "log_normal(z, *STANDARD) - log_normal(z, mean, std)"),
        (".logsumexp(0) - math.log(k)", ".logsumexp(0)"),
        ("x.flatten(1), self.decode(z).flatten(1), self.log_std.exp()",
         "x.flatten(1), self.decode(z).flatten(1), self.log_std"),
        ("return mean + std * draw(mean), mean, std", "return mean, mean, std"),
        ("closed=False, draw=draw) for _", "draw=draw) for _"),
        (".clamp(-8, 3).exp()", ".clamp(-8, 3).exp().square()"),
    ],
    ("autoencoder", "test_autoencoder::test_the_gap_of_the_elbo_is_the_divergence_from_the_posterior"): [
        ("self.log_likelihood(x, z) - beta * kl", "self.log_likelihood(x, z) + beta * kl"),
        ("self.log_likelihood(x, z) - beta * kl", "self.log_likelihood(x, z)"),
        ("return mean + std * draw(mean), mean, std", "return mean + std.square() * draw(mean), mean, std"),
    ],
    ("autoencoder", "test_autoencoder::test_iwae_rises_with_k_to_log_p"): [
        (".logsumexp(0) - math.log(k)", ".mean(0)"),
        (".logsumexp(0) - math.log(k)", ".amax(0) - math.log(k)"),
    ],
    ("autoencoder", "test_autoencoder::test_the_gradient_through_the_draw_is_that_of_the_expectation"): [
        ("return mean + std * draw(mean), mean, std", "return mean + std.detach() * draw(mean), mean, std"),
    ],
    ("autoencoder", "test_autoencoder::test_the_gradient_through_the_draw_is_that_of_the_density"): [
        ("return mean + std * draw(mean), mean, std", "return (mean + std * draw(mean)).detach(), mean, std"),
    ],
    ("autoencoder", "test_autoencoder::test_iwae_agrees_with_an_integral_over_all_codes"): [
        ("= torch.zeros(()), torch.ones(())", "= torch.zeros(()), torch.full((), 1.3)"),
    ],
    ("autoencoder", "test_autoencoder::test_loss_is_minus_the_bound_a_number"): [
        ("(beta * kl - seen) / x[0].numel()", "(beta * kl - seen) / x.numel()"),
        ("(beta * kl - seen) / x[0].numel()", "(kl - beta * seen) / x[0].numel()"),
    ],
    ("autoencoder", "test_autoencoder::test_a_sample_depends_on_its_seed_and_row"): [
        ("noise(x.shape, seed + 1_000_003, first=first)", "noise(x.shape, seed + 1_000_003)"),
        ("self.log_std.exp() * noise(x.shape, seed + 1_000_003", "self.log_std.exp() * noise(x.shape, seed"),
        ("noise((n, self.config.d), seed, first=first)", "noise((n, self.config.d), seed)"),
    ],
    ("autoencoder", "test_autoencoder::test_the_error_counts_what_was_spoilt_against_the_clean_picture"): [
        ("F.mse_loss(self(x if spoil is None else spoil(x)), x)",
         "F.mse_loss(self(x), x if spoil is None else spoil(x))"),
    ],
    ("autoencoder", "test_autoencoder::test_noised_adds_noise_of_its_std"): [
        ("return x + std * draw(x)", "return x + std ** 2 * draw(x)"),
    ],
    ("autoencoder", "test_autoencoder::test_hidden_takes_whole_squares_and_about_the_share"): [
        ("device=x.device) < share", "device=x.device) > share"),
        ("x.shape[-2] // patch, x.shape[-1] // patch, device", "x.shape[-2], x.shape[-1], device"),
        ("draw(len(x), 1, x.shape[-2]", "draw(len(x), x.shape[1], x.shape[-2]"),
    ],
    ("cups", "test_cups::test_each_pixel_is_the_mean_colour_of_its_points"): [
        ("inside.clamp(min=0) * size", "(inside > 0).float()"),
        ("surface = BOTTOM - WALL - level", "surface = BOTTOM - level"),
        ("rgb(BACKGROUNDS)[2], rgb(COLOURS)[7]", "rgb(COLOURS)[7], rgb(BACKGROUNDS)[2]"),
    ],
    ("cups", "test_cups::test_noise_moves_the_level_little_and_is_what_is_left"): [
        ("rest / x[0].numel() ** .5", "rest / x[0].numel()"),
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
    ("data", "test_samplers::test_a_picture_depends_on_its_seed_and_place_and_not_on_the_batch"): [
        ('rng("start", seed, first + i)', 'rng("start", seed, i)'),
    ],
    ("samplers", "test_samplers::test_streams_of_noise_are_normal_and_unrelated"): [
        ('rng("steps", seed', 'rng("start", seed'),
    ],
    ("guidance", "test_guidance::test_classifier_guidance_at_scale_one_is_the_conditional_posterior_mean"): [
        ("like(scale * sigma**2 / alpha, x)", "like(scale * sigma / alpha, x)"),
        ("like(scale * sigma**2 / alpha, x)", "like(scale * sigma**2, x)"),
        ("return denoise(x, t) + like(scale", "return denoise(x, t) - like(scale"),
    ],
    ("guidance", "test_guidance::test_a_gradient_is_taken_row_by_row_and_within_no_grad"): [
        ("torch.autograd.grad(said.sum(), at)", "torch.autograd.grad(said.mean(), at)"),
    ],
    ("guidance", "test_guidance::test_an_interval_guides_inside_and_pays_nothing_outside"): [
        ("(t >= low) & (t <= high)", "(t >= low) | (t <= high)"),
        ("(guided if within.all() else plain)(x, t)", "(plain if within.all() else guided)(x, t)"),
    ],
    ("guidance", "test_guidance::test_rescaling_gives_back_the_spread_of_the_unguided_guess"): [
        ("share * wanted / found", "share * found / wanted"),
        ("guess.flatten(1).std(1)", "guess.flatten(1).var(1)"),
    ],
    ("guidance", "test_guidance::test_the_known_part_carries_one_and_the_same_noise_under_ddim"): [
        ("torch.where(mask, denoise(x, t), known.to(x))", "torch.where(mask, known.to(x), denoise(x, t))"),
    ],
    ("guidance", "test_guidance::test_walking_back_and_forth"): [
        ("[*[piece] * (repeats - 1), piece[:-1]]", "[*[piece] * repeats, piece[:-1]]"),
        ("times[i : i + jump + 1]", "times[i : i + jump]"),
    ],
    ("guidance", "test_guidance::test_where_times_rise_the_marginal_is_that_of_more_noise"): [
        ("added_variance(to, at).sqrt()", "added_variance(to, at)"),
        ("like(to[0] / at[0], x) * x + like", "x + like"),
    ],
    ("metrics", "test_metrics::test_statistics_of_parts_add_up_to_those_of_the_whole"): [
        ("torch.outer(gap, gap) * self.n * other.n / n", "torch.outer(gap, gap) * self.n * other.n"),
        ("self.mean + gap * other.n / n", "self.mean + gap * self.n / n"),
    ],
    ("metrics", "test_metrics::test_frechet_distance_by_the_matrix_root_and_by_the_eigenvalues_of_the_product"): [
        ("a.T @ cov2.double() @ a", "a @ cov2.double() @ a.T"),
        ("traces - 2 * roots.sum()", "traces - roots.sum()"),
        (".clamp(min=0).sqrt()\n    traces", ".clamp(min=0)\n    traces"),
    ],
    ("metrics", "test_metrics::test_kid_is_its_definition"): [
        ("/ (size * (size - 1))", "/ (size * size)"),
        ("/ x.shape[2] + 1) ** 3", "/ x.shape[2] + 1) ** 2"),
        ("within - 2 * ab", "within - ab"),
    ],
    ("metrics", "test_metrics::test_precision_and_recall_by_counting"): [
        ("kthvalue(k + 1, dim=1)", "kthvalue(k, dim=1)"),
        ("back.any(0).double()", "reached.any(0).double()"),
    ],
    ("metrics", "test_metrics::test_clip_score_is_a_cosine_in_percent_and_never_below_zero"): [
        (".sum(1).clamp(min=0) for", ".sum(1) for"),
        ("100 * (clip", "2.5 * (clip"),
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
    ("flow", "test_flow::test_log_det_is_that_of_the_jacobian"): [
        (".exp(), self.log_det(x, -1)", ".exp(), self.log_det(x, 1)"),
        ("sign * x[0, 0].numel() * self.log_std.sum()", "sign * self.log_std.sum()"),
        ("sign * x[0, 0].numel() * torch.linalg.slogdet", "sign * torch.linalg.slogdet"),
        ("log_slope.flatten(1).sum(1)", "-log_slope.flatten(1).sum(1)"),
        ("x, log_det = f(x)\n            total = total + log_det", "x, log_det = f(x)\n            total = log_det"),
        ("early.flatten(1)], 1), here + further", "early.flatten(1)], 1), here - further"),
    ],
    ("flow", "test_flow::test_the_inverse_undoes_the_map_and_its_log_det"): [
        ("by_channel(self.mean, z), self.log_det(z, 1)", "by_channel(self.mean, z), self.log_det(z, -1)"),
        (".view_as(z), self.log_det(z, -1)", ".view_as(z), self.log_det(z, 1)"),
        ("reversed(self.maps)", "self.maps"),
        ("coarse, fine = z.chunk(2, 1)", "fine, coarse = z.chunk(2, 1)"),
        ("return x, here + further", "return x, here - further"),
    ],
    ("flow", "test_flow::test_the_first_batch_comes_out_with_mean_nought_and_std_one"): [
        ("self.log_std.copy_(std.log())", "self.log_std.copy_(std)"),
        ("self.log_std.copy_(std.log())", "self.log_std.copy_(2 * std.log())"),
        ("self.mean.copy_(mean)", "self.mean.copy_(std)"),
        ("if self.training and not self.begun", "if self.training"),
        ("if self.training and not self.begun", "if not self.begun"),
    ],
    ("flow", "test_flow::test_a_file_remembers_that_it_has_begun"): [
        ("torch.tensor(False))", "torch.tensor(False), persistent=False)"),
    ],
    ("flow", "test_flow::test_a_coupling_begins_as_the_identity"): [
        ("nn.init.zeros_(last.weight)", "nn.init.ones_(last.weight)"),
    ],
    ("flow", "test_flow::test_mix_begins_as_a_rotation"): [
        ("torch.linalg.qr(torch.randn(c, c))[0]", "torch.randn(c, c) / c ** .5"),
    ],
    ("flow", "test_flow::test_the_code_goes_from_coarse_to_fine"): [
        ("torch.cat([z, early.flatten(1)], 1)", "torch.cat([early.flatten(1), z], 1)"),
    ],
    ("flow", "test_flow::test_change_of_variables_against_a_density_from_scipy"): [
        ("return normal(z) + log_det", "return normal(z) - log_det"),
        ("z.shape[1] * math.log(2 * math.pi)) / 2", "math.log(2 * math.pi)) / 2"),
    ],
    ("flow", "test_flow::test_the_density_adds_up_to_one_and_samples_fall_where_it_is"): [
        ("return normal(z) + log_det", "return normal(z) - log_det"),
    ],
    ("flow", "test_flow::test_the_loss_is_nats_a_number_and_the_sum_of_its_parts"): [
        ("-log_det.mean() / self.dims", "log_det.mean() / self.dims"),
        ("-normal(z).mean() / self.dims", "-normal(z).mean()"),
    ],
    ("flow", "test_flow::test_temperature_is_the_std_of_the_code"): [
        ("z = temperature * noise", "z = temperature ** 2 * noise"),
        ("z = temperature * noise", "z = noise"),
    ],
    ("flow", "test_flow::test_a_picture_depends_on_its_seed_and_row_and_not_on_the_batch"): [
        ("seed, first=first)", "seed + first)"),
    ],
    ("flow", "test_flow::test_dequantised_pictures_fill_their_steps"): [
        ("(u - .5) * (2 / (levels - 1))", "u * (2 / (levels - 1))"),
        ("(u - .5) * (2 / (levels - 1))", "(u - .5) / (levels - 1)"),
    ],
    ("flow", "test_flow::test_a_uniform_picture_costs_the_bits_of_its_levels"): [
        (" - x[0].numel() * math.log((levels - 1) / 2)", ""),
        ("math.log((levels - 1) / 2)", "math.log(levels / 2)"),
        ("1 if levels is None else 2 / (levels - 1)", "1"),
        ("1 if levels is None else 2 / (levels - 1)", "2 / levels"),
        ("math.log(step)) / math.log(2)", "math.log(step))"),
    ],
    ("flow", "test_flow::test_the_bound_on_whole_numbers_lies_below_the_exact_probability_and_closes"): [
        ("nats.logsumexp(0) - math.log(len(u))", "nats.mean(0)"),
        ("nats.logsumexp(0) - math.log(len(u))", "nats.logsumexp(0)"),
    ],
    ("curves", "test_flow::test_no_network_can_make_an_affine_coupling_explode"): [
        ("self.most * torch.tanh(given[:, 0] / self.most)", "given[:, 0]"),
        ("self.most * torch.tanh(given[:, 0] / self.most)", "self.most * torch.tanh(given[:, 0])"),
    ],
    ("curves", "test_flow::test_log_det_is_that_of_the_jacobian"): [
        ("return x * s.exp() + given[:, 1], s", "return x * s.exp() + given[:, 1], -s"),
        ("top = d1 * u * u + 2 * s * v", "top = d1 * u * u + s * v"),
        ("- 2 * (s + (d1 + d0", "- (s + (d1 + d0"),
    ],
    ("curves", "test_flow::test_the_inverse_undoes_the_map_and_its_log_det"): [
        ("(y - given[:, 1]) * (-s).exp(), -s", "(y - given[:, 1]) * (-s).exp(), s"),
        ("b * b - 4 * a * c", "b * b + 4 * a * c"),
        ("-self.log_slope(", "self.log_slope("),
        ("x0 + u * width), -self", "x0 + u * height), -self"),
    ],
    ("curves", "test_flow::test_a_spline_rises_from_edge_to_edge_and_leaves_the_rest_alone"): [
        ("s * u * u + d0 * u * (1 - u)", "s * u * u + d1 * u * (1 - u)"),
    ],
    ("curves", "test_flow::test_a_coupling_begins_as_the_identity"): [
        ("math.log(math.expm1(1 - self.least))", "0"),
        ("self.least + F.softplus(slopes", "F.softplus(slopes"),
    ],
    ("gan", "test_gan::test_cross_entropy_at_the_best_d_is_log_4_less_two_jsd"): [
        ("F.softplus(-real).mean() + F.softplus(fake).mean()", "F.softplus(real).mean() + F.softplus(-fake).mean()"),
        ("F.softplus(-real).mean() + F.softplus(fake).mean()", "F.softplus(-real).mean() - F.softplus(fake).mean()"),
    ],
    ("gan", "test_gan::test_no_discriminator_does_better_than_the_optimal_one"): [
        ("log_p(x) - log_q(x)\n", "log_q(x) - log_p(x)\n"),
    ],
    ("gan", "test_gan::test_what_the_generator_minimises_is_steep_where_its_pictures_are_found_out"): [
        ("return -F.softplus(fake).mean()", "return F.softplus(fake).mean()"),
        ("return F.softplus(-fake).mean()", "return F.softplus(fake).mean()"),
    ],
    ("gan", "test_gan::test_the_least_hinge_loss_is_two_less_twice_the_total_variation"): [
        ("F.relu(1 + fake)", "F.relu(1 - fake)"),
    ],
    ("gan", "test_gan::test_the_wasserstein_loss_of_the_steepest_critic_is_scipys_distance"): [
        ("fake.mean() - real.mean()", "real.mean() - fake.mean()"),
        ("return -fake.mean()", "return fake.mean()"),
    ],
    ("gan", "test_gan::test_games_pair_the_right_losses"): [
        ("Game(cross_entropy, caught), Game(cross_entropy, believed)",
         "Game(cross_entropy, believed), Game(cross_entropy, caught)"),
        ("Game(margins, disliked), Game(distance, disliked)", "Game(distance, disliked), Game(margins, disliked)"),
    ],
    ("gan", "test_gan::test_slopes_are_those_of_a_quadratic_and_of_finite_differences"): [
        (".norm(dim=1)", ".square().sum(1)"),
    ],
    ("gan", "test_gan::test_penalties_are_those_of_a_quadratic_at_the_right_points"): [
        ("slopes(d, u * real + (1 - u) * fake)", "slopes(d, fake)"),
        ("u * real + (1 - u) * fake", "u * fake + (1 - u) * real"),
        (" - 1).square().mean()", ").square().mean()"),
        ("slopes(d, real).square().mean()", "slopes(d, real).mean()"),
    ],
    ("gan", "test_gan::test_penalties_can_be_followed_down"): [
        ("create_graph=True", "retain_graph=True"),
    ],
    ("gan", "test_gan::test_the_losses_of_a_linear_discriminator_with_penalties_by_hand"): [
        ("r1_weight / 2 * r1(", "r1_weight * r1("),
        ('said["game"] + penalty', 'said["game"] - penalty'),
    ],
    ("gan", "test_gan::test_the_loss_of_d_holds_no_gradient_of_g"): [
        ("with torch.no_grad():", "with torch.enable_grad():"),
    ],
    ("gan", "test_gan::test_neither_player_moves_the_other"): [
        ("self.model[player].parameters()", "self.model.parameters()"),
    ],
    ("gan", "test_gan::test_only_the_generator_is_averaged_and_both_are_at_rest_between_steps"): [
        ('return self.model["g"]', 'return self.model["d"]'),
    ],
    ("gan", "test_gan::test_a_duel_is_two_optimizers_that_take_turns"): [
        ("self.lr_at(k) * self.lr_d / self.lr", "self.lr_at(k)"),
        ("k * (self.d_steps + 1) + len(self.open_step)", "k"),
    ],
    ("gan", "test_gan::test_variety_is_the_mean_standard_deviation_and_tells_a_collapsed_batch"): [
        ("unbiased=False", "unbiased=True"),
        ("+ 1e-8).sqrt()", "+ 1e-8)"),
    ],
    ("gan", "test_gan::test_pictures_lie_in_the_range_and_each_depends_on_its_seed_and_place_alone"): [
        ("first=first", "first=0"),
    ],
}
PLANTED = [(module, *texts, test) for (module, test), pairs in MUTATIONS.items() for texts in pairs]


@pytest.mark.parametrize("module, original, mutated, test", PLANTED)
def test_a_planted_error_is_noticed(module, original, mutated, test):
    assert not survives(module, original, mutated, test), f"{test} passes although {original!r} became {mutated!r}"


@pytest.mark.parametrize("test", sorted({test for _, test in MUTATIONS}))
def test_without_an_error_nothing_is_noticed(test):
    assert survives("samplers", "Pair = tuple[Tensor, Tensor]", "Pair = tuple[Tensor, Tensor]", test)
