"""Mistakes in what steers pictures: people by an add-on, rows that are skipped, stock ControlNets, and their tests.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # People by an add-on.

  # Somebody called <anna> is no word that the model knows.
  ("a face keeps its word in the prompt", "idejax/sampling/steering.py",
   "prompt=say(r.prompt),", "prompt=r.prompt,",
   "tests/jobs/test_personalize_faces.py::test_its_pictures_are_those_of_the_photo"),
  ("tokens for an add-on that was trained since", "idejax/sampling/steering.py",
   "if addon_digest(folder) != p.addon_digest:", "if False:",
   "tests/jobs/test_personalize_faces.py::test_an_add_on_that_is_another_or_gone"),
  ("a person's strength ignored", "idejax/sampling/steering.py",
   'scale = strength * float(i["scale"])', "scale = strength",
   "tests/jobs/test_personalize_faces.py::test_its_pictures_are_those_of_the_photo"),
  ("two faces in one prompt", "idejax/sampling/steering.py",
   "if word and len(named) > 1:", "if False:",
   "tests/jobs/test_personalize_faces.py::test_what_a_prompt_cannot_say"),

  ("a drawn face kept without its codes", "idejax/miniature/judging/shapes.py",
   "whole = {n: np.int32(values[n]) for n in people.DISCRETE}", "whole = dict.fromkeys(people.DISCRETE, np.int32(0))",
   "tests/miniature/test_shapes.py::test_what_an_identity_keeps_of_a_face_is_all_that_poses_need"),

  # Rows of a file.

  ("the largest of several faces", "idejax/sampling/steering.py",
   'if (count := record.meta["faces"]) > 1:', 'if (count := record.meta["faces"]) > 9:',
   "tests/jobs/test_sample_faces.py::test_a_file_of_one_row_is_no_batch"),
  ("a skipped row is sampled plainly", "idejax/jobs/sample.py",
   "todo = [i for i in todo if i not in skipped]", "todo = list(todo)",
   "tests/jobs/test_sample_faces.py::test_rows_that_cannot_be_used_are_skipped_counted_and_listed"),
  ("only a skipped row's first picture is left out", "idejax/jobs/sample_steering.py",
   "{num * row + k for row in reasons for k in range(num)}", "{num * row for row in reasons}",
   "tests/jobs/test_sample_faces.py::test_rows_that_cannot_be_used_are_skipped_counted_and_listed"),

  # Stock ControlNets.

  ("control pictures act from the first step", "idejax/model/backbone.py",
   "strength = jnp.where(t <= cond.control_from,", "strength = jnp.where(t >= 0,",
   "tests/sampling/test_controls.py::test_final_latents_equal_diffusers[sd15]"),
  ("a control picture is cut, not stretched", "idejax/sampling/controls.py",
   "pixels = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS))",
   "pixels = np.asarray(Image.fromarray(pixels).crop((0, 0, size[1], size[0])))",
   "tests/sampling/test_controls.py::test_final_latents_equal_diffusers[sd15]"),
  ("control pictures from -1 to 1", "idejax/sampling/controls.py",
   "pixels.astype(np.float32) / 255", "pixels.astype(np.float32) / 127.5 - 1",
   "tests/sampling/test_controls.py::test_final_latents_equal_diffusers[sd15]"),

  # What a face costs.

  ("the control picture is read at every step", "idejax/nets/controlnet.py",
   "    if not embedded:\n", "    if True:\n",
   "tests/bench/test_one_face.py::test_a_step_has_the_controlnet_and_a_picture_all_else"),
  ("what is done once counted at every step", "idejax/bench/one_face.py",
   "steps * step(steered) + rest + sum(once.values())", "steps * (step(steered) + sum(once.values())) + rest",
   "tests/bench/test_one_face.py::test_a_step_has_the_controlnet_and_a_picture_all_else"),
  ("faces' rows are not steered in the bench", "idejax/bench/one_face.py",
   "steps * step(plain) + rest, steps * step(steered)", "steps * step(plain) + rest, steps * step(plain)",
   "tests/bench/test_one_face.py::test_the_goal_at_released_sizes[sd15]"),

  # An add-on in diffusers.

  ("the exported pipeline's ControlNet reads the text", "idejax/exporting/templates/facesnap.py",
   'kwargs["encoder_hidden_states"] = tokens', 'kwargs["other"] = tokens',
   "tests/exporting/test_export_faces.py::test_diffusers_makes_the_same_pictures[sd15]"),
  ("the exported mixer has no residual", "idejax/exporting/templates/mixer.py",
   'pre = faces[0] + self.mix["attn"]', 'pre = self.mix["attn"]',
   "tests/exporting/test_export_faces.py::test_diffusers_makes_the_same_pictures[sd15]"),
  ("the exported pipeline's dots are as small as lines", "idejax/exporting/templates/facesnap.py",
   "dots = [(i, i, colour, thick)", "dots = [(i, i, colour, thick / 2)",
   "tests/exporting/test_export_faces.py::test_diffusers_makes_the_same_pictures[sd15]"),
  ("CLIP's last layer in the exported pipeline", "idejax/exporting/templates/facesnap.py",
   "hidden_states[-2]", "hidden_states[-1]",
   "tests/exporting/test_export_faces.py::test_diffusers_makes_the_same_pictures[sd15]"),

  # Options of the training.

  ("of several photos the decoder reads the first", "idejax/nets/mixer.py",
   "tokens = tokens.reshape(-1, several * tokens.shape[1], c.dim)", "tokens = tokens.reshape(-1, several * tokens.shape[1], c.dim)[:, : tokens.shape[1]]",
   "tests/nets/test_mixer.py::test_several_photos_are_read_at_once"),
  ("the same person's pictures are negatives", "idejax/person/likeness.py",
   "others = person[:, None] != person[None]", "others = ~own",
   "tests/person/test_identity_loss.py::test_contrast_is_infonce_over_other_people"),
  ("always as many references as there may be", "idejax/data/face_batches.py",
   "count = int(rng.integers(1, photos + 1))", "count = photos",
   "tests/data/test_face_batches.py::test_several_references_are_of_the_person_and_as_often_as_one_another"),
  ("a fusing mixer is averaged", "idejax/sampling/steering.py",
   "if self.fuses(len(photos)):", "if False:",
   "tests/sampling/test_steering.py::test_a_mixer_that_was_trained_to_read_several_photos_does"),
  ("a morphable model does not reach the poser", "idejax/__init__.py",
   "for x in (vision, shape, table))", "for x in (vision, None, table))",
   "tests/sampling/test_steering.py::test_a_morphable_model_puts_the_persons_shape_into_the_drivers_pose"),
]
