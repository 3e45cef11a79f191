"""Mistakes in the Python interface and in pictures of results, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # np.arange(2) as seeds gives picture 1 the noise (1, 1) in place of (1, 0).
  ("several seeds count on", "idejax/sampling/requests.py",
   "places = range(n) if one_seed else [0] * len(seed_list)", "places = range(len(seed_list))",
   "tests/test_api.py::test_seeds_of_an_array_name_their_pictures_alone"),
  # A negative seed becomes another one without a word.
  ("seeds of any sign", "idejax/sampling/requests.py",
   "if not 0 <= (seed :=", "if not -(2**64) <= (seed :=",
   "tests/test_api.py::test_what_cannot_be_sampled_is_one_sentence"),
  # Noise in PyTorch's order is used as if it were ours.
  ("noise of any shape", "idejax/sampling/requests.py",
   "if z.shape != want:", "if z.size != math.prod(want):",
   "tests/test_api.py::test_given_noise_is_checked_by_shape_and_values"),
  # Settings out of range reach the trainer.
  ("method's settings unchecked", "idejax/personalizing/interface.py",
   "  ranges.check(cfg, str)\n  for key", "  for key",
   "tests/test_api.py::test_settings_that_cannot_be_are_refused_before_a_photo_is_read"),
  # {"cleo": ..., "anna": ...} hands anna's identity to cleo.
  ("results of a crowd by another order", "idejax/personalizing/interface.py",
   "return dict(zip(people, identities)) if many", "return dict(zip(sorted(people), identities)) if many",
   "tests/test_api.py::test_several_people_are_a_dict_of_results_in_their_order"),
  # Two people whose names differ in case alone train as one file.
  ("people of one name", "idejax/personalizing/interface.py",
   "if short in {p.stem for p in out.values()}:", "if key in out:",
   "tests/test_api.py::test_two_people_of_one_name_are_refused"),
  # Callbacks hear only of the last step of each window.
  ("progress tells the last step alone", "idejax/training/loop.py",
   "      for r in rows:\n        self.run.progress(", "      for r in rows[-1:]:\n        self.run.progress(",
   "tests/test_api.py::test_every_step_of_a_window_is_told"),
  # A sheet of one person is one strip again.
  ("sheets do not wrap", "idejax/storage/sheets.py",
   "if rows and _across([*rows[-1], block], side) <= room:", "if rows:",
   "tests/storage/test_sheets.py::test_one_persons_sheet_is_not_a_strip"),
  # The end of a long prompt is missing on the sheet.
  ("captions lose their last line", "idejax/storage/fonts.py",
   "    lines.append(line)\n  return lines", "    lines.append(line)\n  return lines[: max(1, len(lines) - 1)]",
   "tests/storage/test_sheets.py::test_lines_fit_and_lose_no_letter"),
  # Steps that were skipped pull the mean down.
  ("skipped steps count as zero loss", "idejax/training/plots.py",
   'count = np.convolve(finite.astype(float), ones, "same")', 'count = np.convolve(np.ones(len(y)), ones, "same")',
   "tests/training/test_plots.py::test_the_running_mean_is_centred_and_leaves_out_what_is_not_there"),
]
