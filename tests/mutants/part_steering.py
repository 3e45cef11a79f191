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
]
