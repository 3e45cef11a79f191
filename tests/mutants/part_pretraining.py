"""Mistakes in the input of a pretraining, its validation and its plan, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

_ROWS = "tests/data/test_face_rows.py::"
_VALIDATION = "tests/evaluation/test_validation.py::"
_CAPTIONS = "tests/data/test_captioner.py::"
_SHAPES = "tests/data/test_prepare_shapes.py::"
_COMPANY = "tests/data/test_prepare_company.py::"
_MOVES = "tests/person/test_moves.py::"
_PLAN = "tests/planning/test_plan_pretraining.py::"

MUTANTS = [
  # Records on the disk.

  # Every process would train on the first process's faces.
  ("rows of another process", "idejax/data/face_batches.py",
   "data.take(at[places], who[places], **moved)", "data.take(at[: len(places)], who[: len(places)], **moved)",
   _ROWS + "test_a_process_reads_its_own_rows_and_no_others"),
  ("held-out people train", "idejax/data/face_batches.py",
   "at = at if among is None else among[at]", "at = at",
   _ROWS + "test_people_who_are_kept_out_are_never_read"),
  # The whole epoch would end in memory.
  ("read ahead without an end", "idejax/data/face_rows.py",
   "min(i + 1 + self._most, max(self._steps, i + 1))", "max(self._steps, i + 1)",
   _ROWS + "test_batches_are_read_ahead_and_no_further_than_said"),
  ("references by order in the file", "idejax/data/face_rows.py",
   'self._order = np.argsort(person, kind="stable")', "self._order = np.arange(len(person))",
   _ROWS + "test_the_records_of_each_person"),
  ("people of other shards", "idejax/data/face_rows.py",
   "if of != digest(about):", "if False:",
   _ROWS + "test_a_table_of_people_of_other_shards"),
  ("a lost shard is a damaged record", "idejax/data/face_shards.py",
   "if trouble := _trouble(self.folder, shard):", 'if trouble := "":',
   _ROWS + "test_a_host_that_loses_its_shards_says_which"),
  ("rows on other devices", "idejax/data/face_batches.py",
   "lambda x, index: x[at[index[0]]]", "lambda x, index: x[at[: len(at[index[0]])]]",
   _ROWS + "test_rows_of_a_batch_lie_on_their_devices"),

  # Pictures that move.

  ("a process moves as the first rows move", "idejax/data/face_batches.py",
   "moves.draw(how, seed, step, batch)[n] for n in places", "moves.draw(how, seed, step, batch)[n] for n in range(len(places))",
   _ROWS + "test_moved_pictures_are_a_function_of_seed_step_and_place"),
  ("latents of unmoved pictures", "idejax/data/face_rows.py",
   "if self.has_latents and how is None else None", "if self.has_latents else None",
   _ROWS + "test_moved_pictures_are_a_function_of_seed_step_and_place"),
  ("landmarks stay behind", "idejax/person/moves.py",
   '"marks": align.apply(m, marks).astype(np.float32)', '"marks": marks',
   _MOVES + "test_landmarks_and_mask_lie_where_the_picture_has_them"),
  ("half a pixel off", "idejax/person/moves.py",
   "0.5 * back - 0.5", "0.0 * back",
   _MOVES + "test_landmarks_and_mask_lie_where_the_picture_has_them"),
  ("the face leaves the frame", "idejax/person/moves.py",
   "if max(ends[0], low) <= min(ends[1], high):", "if True:",
   _MOVES + "test_the_face_stays_in_the_frame_and_the_frame_full_as_far_as_may_be"),
  ("the crop of an enlarged picture", "idejax/person/moves.py",
   "scale * top + beyond[1], scale * left + beyond[0]", "scale * top + beyond[0], scale * left + beyond[1]",
   _MOVES + "test_an_enlarged_picture_says_where_its_crop_lies_and_a_shrunk_one_that_it_has_none"),
  ("the black is learned", "idejax/methods/facesnap.py",
   'region = region * batch["inside"]', 'region = region + 0 * batch["inside"]',
   "tests/methods/test_facesnap.py::test_beyond_the_picture_nothing_is_learned"),

  # What prepare stores of nets.

  ("portraits aligned by the photo's points", "idejax/data/preparing/stages.py",
   'return photo.read(record["image"]).pixels, record["points"]', 'return photo.read(record["image"]).pixels, points',
   _ROWS + "test_what_prepare_computed_is_what_a_training_computes"),
  ("another net keeps the part", "idejax/data/preparing/stages.py",
   '"net": encoder and encoder.digest}', '"net": None}',
   _ROWS + "test_a_stage_alone_and_another_net_make_that_part_anew_and_no_other"),
  ("latents of any model", "idejax/data/face_shards.py",
   'if theirs["sha256"] != latents[0]:', "if False:",
   _ROWS + "test_latents_of_another_model_or_size_and_tokens_of_another_encoder"),
  ("latents of any size", "idejax/data/face_shards.py",
   'if theirs["size"] != latents[1]:', "if False:",
   _ROWS + "test_latents_of_another_model_or_size_and_tokens_of_another_encoder"),

  # What a network of the user's says of photos, and what a model of faces does.

  ("captions that came with photos are replaced", "idejax/data/preparing/stages.py",
   '_with_face(before["detect"]) if not texts[i]]', '_with_face(before["detect"])]',
   _CAPTIONS + "test_photos_without_a_caption_get_one_that_says_whose_it_is"),
  ("a caption goes on after its end", "idejax/data/preparing/captioner.py",
   "np.where(done, self.ends[0], logits[:, -1].argmax(-1))", "logits[:, -1].argmax(-1)",
   _CAPTIONS + "test_rows_that_end_early_wait_for_the_others_and_those_that_never_end_are_cut"),
  ("any decoder will do", "idejax/data/preparing/captioner.py",
   "if not inputs <= have or have - inputs - _MASKS:", "if not inputs & have:",
   _CAPTIONS + "test_networks_of_another_kind_are_refused_in_one_sentence"),
  ("a picture's mean is not taken off", "idejax/data/preparing/captioner.py",
   'x = (x - np.array(self._how["image_mean"])) / np', "x = x / np",
   _CAPTIONS + "test_the_picture_is_read_as_its_config_says"),
  ("the pose stays in the photo", "idejax/data/preparing/squares.py",
   'out["pose"] = np', '_ = np',
   _SHAPES + "test_a_record_holds_what_its_landmarks_come_from"),
  ("a fit that misses is kept", "idejax/jobs/encoders.py",
   "if fit.residual > fitting.LIMIT:", "if fit.residual > 1:",
   _SHAPES + "test_a_record_holds_what_its_landmarks_come_from"),
  ("another model of faces keeps the part", "idejax/data/preparing/stages.py",
   '{"reader": w.shapes and w.shapes.digest}', '{"reader": None}',
   _SHAPES + "test_the_stage_alone_and_another_model_make_that_part_anew_and_no_other"),

  # Company, and what is damaged.

  ("jobs of other settings share an output", "idejax/data/preparing/parts.py",
   "if odd := [k for k in mine if mine[k] != theirs.get(k)]:", "if odd := []:",
   _COMPANY + "test_jobs_of_other_settings_do_not_share_an_output"),
  ("hosts make one another's work anew", "idejax/data/preparing/parts.py",
   "if (other := now.get(i.name)) != i:", "if (other := now.get(i.name)) is None:",
   _COMPANY + "test_hosts_that_see_other_times_of_the_photos_are_told"),
  ("half a photo is a photo", "idejax/data/preparing/sources.py",
   "yield Picture(cut if len(data) < size else data)", "yield Picture(data)",
   _COMPANY + "test_photos_in_tars_that_are_cut_off_or_claim_too_much"),

  # Validation.

  ("others include the person", "idejax/evaluation/validation.py",
   "if k != n and w is not None", "if w is not None",
   _VALIDATION + "test_identity_is_that_of_the_own_person_less_that_of_the_others"),
  ("validated in one's own pose", "idejax/evaluation/validation.py",
   'np.roll(rows["marks"], -1, axis=0)', 'rows["marks"]',
   _VALIDATION + "test_the_pose_asked_for_is_the_next_persons"),
  ("pictures are held out, not people", "idejax/evaluation/validation.py",
   "np.isin(person, order[:count])", "np.isin(np.arange(len(person)), order[:count])",
   _VALIDATION + "test_held_out_people_are_always_the_same_and_leave_with_all_their_pictures"),
  ("the same draws for every batch", "idejax/training/fit.py",
   'draws.keys(key, n, batch["index"]), cfg)[0]', 'draws.keys(key, 0, batch["index"]), cfg)[0]',
   "tests/training/test_scorer.py::test_a_score_is_the_mean_loss_by_draws_that_are_always_the_same"),
  ("waiting for input is not told", "idejax/training/loop.py",
   "if waits > 0.01 else", "if waits > 1.01 else",
   "tests/training/test_scorer.py::test_the_progress_line_says_when_steps_wait_for_their_batch"),

  # Presets and the plan.

  ("the paper's batch on one device", "configs/facesnap_sdxl.py",
   "batch=14", "batch=7",
   "tests/jobs/test_pretrain_configs.py::test_what_a_preset_trains"),
  ("a training at another size than its records'", "configs/facesnap_sd21.py",
   "--size 512", "--size 768",
   "tests/jobs/test_pretrain_configs.py::test_what_a_preset_trains"),
  ("gradients move for nothing", "idejax/planning/pretraining.py",
   "gather + scatter + reduce", "gather + reduce",
   _PLAN + "test_what_collectives_move"),
  ("a pod for the price of a chip", "idejax/planning/pretraining.py",
   "price * chips * 24 * days", "price * 24 * days",
   _PLAN + "test_days_and_cost_follow_from_the_step"),
  ("state counted whole on every device", "idejax/planning/pretraining.py",
   "here = lambda tree: sum(part for _, part in parts(tree))", "here = lambda tree: sum(whole for whole, _ in parts(tree))",
   _PLAN + "test_bytes_on_a_device_are_those_that_the_trainer_puts_there"),
  ("frozen weights are in parts whatever is said", "idejax/training/step.py",
   "replicated, frozen) if whole else", "replicated, frozen) if False else",
   "tests/training/test_step.py::test_eight_devices_equal_one"),
  ("another process compiles the same blocks", "idejax/planning/blocks.py",
   "if answer := kept.read(path):", "if answer := None:",
   "tests/planning/test_plan.py::test_blocks_are_compiled_once_for_all_topologies_of_a_chip"),
  ("threads compile for this machine", "idejax/planning/blocks.py",
   "with target.compiling_for(platform):", "with target.compiling_for(None):",
   "tests/planning/test_plan.py::test_blocks_are_compiled_once_for_all_topologies_of_a_chip"),
  ("the recogniser reads for nothing", "idejax/planning/pretraining.py",
   "likeness.crop(images + 1, marks, recogniser.SIDE) - 1)", "likeness.crop(images + 1, marks, recogniser.SIDE)[:, ::2, ::2])",
   _PLAN + "test_the_recogniser_of_the_identity_loss_is_counted"),
  ("pictures that move are encoded for nothing", "idejax/planning/pretraining.py",
   "(one.error + one.encode + due", "(one.error + due",
   _PLAN + "test_a_picture_that_moves_is_encoded_in_the_step"),
  ("a v5p for a v5e", "idejax/planning/topology.py",
   '"tpu v5 lite": "v5e", "tpu v5e": "v5e", "tpu v5": "v5p",', '"tpu v5": "v5p", "tpu v5 lite": "v5e", "tpu v5e": "v5e",',
   _PLAN + "test_the_peak_of_a_device_as_jax_names_it"),
  ("a share of one step's peak", "idejax/training/loop.py",
   "100 * rate * self.run.flops / self.run.peak", "100 * self.run.flops / self.run.peak",
   "tests/training/test_scorer.py::test_the_progress_line_says_when_steps_wait_for_their_batch"),
  ("the last weights are kept, not their average", "idejax/jobs/pretrain.py",
   "s.ema if cfg.ema else s.params", "s.params",
   "tests/jobs/test_pretrain.py::test_the_average_of_the_steps_is_kept"),
  ("a step's pictures are not in its pace", "idejax/training/loop.py",
   "rate * self.run.pictures", "1.0 * self.run.pictures",
   "tests/training/test_scorer.py::test_the_progress_line_says_when_steps_wait_for_their_batch"),
  ("the cheapest branch is the dearest", "idejax/runtime/flops.py",
   "return branch(_jaxpr_flops(b.jaxpr, branch)", "return max(_jaxpr_flops(b.jaxpr, branch)",
   "tests/planning/test_flops.py::test_a_cond_costs_its_dearest_or_its_cheapest_branch"),
]  # fmt: skip
