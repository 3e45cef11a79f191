"""Scores, files, steps, samplers, weights, checkpoints, faces. See run.py."""

MUTANTS = [
  # Everybody is compared with the first person.
  ("scores against person 0", "idejax/evaluation/report.py", "judges.embed([reference(people[i])])", "judges.embed([reference(people[0])])",
   "tests/evaluation/test_report.py"),
  # --strength is read and dropped.
  ("strength ignored", "idejax/jobs/sample.py", "people = [p.with_strength(c.strength) for p in people]", "people = list(people)",
   "tests/jobs/test_sample_command.py::test_the_strength_of_the_command_is_the_persons"),
  # The negative prompt of `Pipeline.sample` is dropped.
  ("negative ignored", "idejax/sampling/pipeline.py", "columns = [prompts, each(negative), names, each(scale)]",
   "columns = [prompts, each(None), names, each(scale)]",
   "tests/sampling/test_pipeline.py::test_a_negative_prompt_of_the_python_interface_is_the_requests"),
  # Pictures of one seed share a sampler's noise.
  ("noise without the index", "idejax/sampling/pipeline.py", "jax.random.fold_in(jax.random.key(low), high), index)",
   "jax.random.fold_in(jax.random.key(low), high), 0)",
   "tests/sampling/test_pipeline.py::test_pictures_of_one_seed_have_a_samplers_noise_of_their_own"),
  # SeFi-IDE trains on the photo alone.
  ("augmentation dropped", "idejax/methods/sefi_ide.py",
   "Augment(jitter=0.2, scale=(0.1, 1.0)) if cfg.augmented else Augment()", "Augment()",
   "tests/methods/test_contract.py::test_photos_are_changed_as_in_the_papers"),
  # Rows never decay.
  ("decay ignored", "idejax/methods/textual_inversion.py", "weight_decay=cfg.weight_decay", "weight_decay=0.0",
   "tests/methods/test_textual_inversion.py::test_the_first_update_is_the_rate_and_the_decay"),
  # A file rewritten at its size keeps its old digest.
  ("digest by size", "idejax/storage/tensorfiles.py", "[stat.st_size, stat.st_mtime_ns]", "[stat.st_size]",
   "tests/storage/test_tensorfiles.py::test_digest_is_sha256_and_its_cache_is_only_a_cache"),
  # The mean of several unit embeddings is used as it is.
  ("mean face not normalised", "idejax/person/subjects.py", "(face / np.linalg.norm(face))", "(face)",
   "tests/person/test_subjects.py"),
  # After a skipped step the same random numbers come again.
  ("draws repeated", "idejax/training/step.py", "draws.keys(key, state.step, batch[", "draws.keys(key, state.step - state.skipped[0], batch[",
   "tests/training/test_step.py::test_the_step_after_a_skipped_one_draws_anew"),
  # The second of two spellings of a tensor wins.
  ("duplicate keys accepted", "idejax/storage/flaxfiles.py", "if key in out:\n        raise", "if False:\n        raise",
   "tests/storage/test_tensorfiles.py::test_a_flax_file_that_says_a_tensor_twice_is_refused"),
  # Final latents are written into the certificate and not judged.
  ("final latents not judged", "idejax/exporting/certificate.py", 'for n, x in found["final_latents"].items()]',
   "for n, x in ()]", "tests/exporting/test_export.py::test_every_part_of_a_certificate_is_judged_alone"),

  # -- Long well tested --
  # Trailing timesteps start one too late.
  ("trailing spacing", "idejax/sampling/tables.py", "return np.arange(T, 0, -T / steps).round()[:steps] - 1",
   "return np.arange(T, 0, -T / steps).round()[:steps] - 2",
   "tests/sampling/test_sampler.py::test_timesteps"),
  # The Euler family's first noise level of leading schedules.
  ("euler's start", "idejax/sampling/tables.py", "math.sqrt(top**2 + 1)", "top", "tests/sampling/test_sampler.py::test_twin[euler-epsilon]"),
  # Karras' rho.
  ("karras' rho", "idejax/sampling/tables.py", "high ** (1 / 7)))", "high ** (1 / 5)))", "tests/sampling/test_sampler.py::test_twin_settings[euler-fields6]"),
  # v is read with the wrong sign.
  ("v's sign", "idejax/sampling/tables.py", '"v_prediction": (alpha, -sigma)', '"v_prediction": (alpha, sigma)',
   "tests/sampling/test_sampler.py::test_predictions_agree"),
  # Kernels of blocks in a run keep torch's axes.
  ("scanned kernels not turned", "idejax/storage/weights.py", "out[i] = x.transpose(to_flax_axes)", "out[i] = x.reshape(out[i].shape)",
   "tests/storage/test_weights.py::test_odd_net_has_the_expected_keys_and_round_trips"),
  # Tensors that the model does not use pass in silence.
  ("unused tensors pass", "idejax/storage/weights.py", "unused = [k for k in tensors if", "unused = [k for k in () if",
   "tests/storage/test_weights.py::test_a_dropped_a_renamed_and_a_transposed_tensor_are_each_named"),
  # Gradients of an accumulated batch are summed.
  ("accumulation sums", "idejax/training/step.py", "lambda x: x / accumulate, total)", "lambda x: x, total)",
   "tests/training/test_step.py::test_accumulation_equals_the_whole_batch"),
  # Clipping sees every gradient as small.
  ("clip never acts", "idejax/training/step.py", "jnp.minimum(1.0, clip / ", "jnp.maximum(1.0, clip / ",
   "tests/training/test_step.py::test_clipping_bounds_the_update_and_reports_the_unclipped_norm"),
  # Skips in a row are never forgotten.
  ("skips in a row add up", "idejax/training/step.py", "(state.skipped[1] + bad) * bad", "state.skipped[1] + bad",
   "tests/training/test_step.py::test_a_step_that_is_not_finite_changes_nothing_but_the_counters"),
  # A damaged checkpoint is read as if it were whole.
  ("digests not compared", "idejax/training/checkpoint.py", "      if not reason:\n", "      if True:\n",
   "tests/training/test_checkpoint.py::test_a_damaged_checkpoint_is_told_and_the_one_before_is_used"),
  # A run continues under other settings.
  ("other settings pass", "idejax/training/loop.py", "if known.get(k) != got.facts.get(k)]", "if False]",
   "tests/training/test_checkpoint.py::test_other_settings_are_refused_by_name"),
  # An identity of another model is used.
  ("another model's identity", "idejax/sampling/learned.py", "if person.digest != digest and not other:", "if False:",
   "tests/sampling/test_learned.py"),
  # An identity of other text encoders is used.
  ("another width's identity", "idejax/sampling/learned.py", "if widths != wanted:", "if False:", "tests/sampling/test_learned.py"),
  # A person saved and read again is of another word.
  ("licence lost", "idejax/sampling/learned.py", '"licence": person.licence,', '"licence": "",', "tests/sampling/test_learned.py"),
  # Two people whose files have one stem become one.
  ("people of one name merge", "idejax/data/people.py", "if found and short in people:\n      raise", "if False:\n      raise",
   "tests/data/test_crowd.py"),
  # Photos that cannot be used are not told of.
  ("skipped in silence", "idejax/data/people.py", "skipped.append(str(e))", "pass", "tests/data/test_crowd.py"),
  # True passes for a number in a config file.
  ("a switch passes for a number", "idejax/cli/config_file.py", "(kind is bool or not isinstance(x, bool))", "True",
   "tests/cli/test_cli.py::test_config_files_are_typed"),
  # Names that climb out of the cache reach the hub.
  ("names that climb", "idejax/storage/hub.py", 'or ".." in name or', "or", "tests/storage/test_hub.py::test_names_that_are_neither_never_reach_the_hub"),
  # A deleted original is fetched under its old name.
  ("no mirror", "idejax/storage/hub.py", "repo = MIRRORS.get(name, name)", "repo = name",
   "tests/storage/test_hub.py::test_deleted_ids_go_to_their_mirror_and_the_user_is_told"),
  # Mirrored points are fitted by a reflection.
  ("faces turned inside out", "idejax/faces/align.py", "sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])",
   "sign = np.ones(2)", "tests/faces/test_align.py::test_a_mirrored_face_is_not_turned_inside_out"),
  # Crops of 128 have no margin.
  ("no margin at 128", "idejax/faces/align.py", "(ARCFACE + [8, 0])", "(ARCFACE + [0, 0])", "tests/faces/test_align.py::test_crop_sizes"),
  # A seed of 1.5 is rounded.
  ("half a seed", "idejax/sampling/prompt_files.py", "and values[key] != row[key]:", "and False:",
   "tests/sampling/test_prompts.py"),
]  # fmt: skip
