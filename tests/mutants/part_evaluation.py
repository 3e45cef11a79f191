"""Mistakes in judging, and the test that notices each. See run.py."""

MUTANTS = [
  # ID (P) leaves the threshold itself out.
  ("prompt threshold exclusive", "idejax/evaluation/likeness.py",
   "if prompt >= threshold else 0.0", "if prompt > threshold else 0.0",
   "tests/evaluation/test_faces_scores.py::test_the_threshold_itself_counts"),
  # A copy of the reference counts as a copy of the other photo.
  ("copies the other way round", "idejax/evaluation/likeness.py",
   "return (angle(generated, second) - angle(generated, reference))", "return (angle(generated, reference) - angle(generated, second))",
   "tests/evaluation/test_faces_scores.py::test_a_copy_is_one_a_copy_of_the_other_photo_minus_one_and_between_nothing"),
  # The word is removed inside other words too: "the masks of sks".
  ("word removed within words", "idejax/evaluation/agreement.py",
   r'rf"(?<!\w){re.escape(word)}(?!\w)"', "re.escape(word)",
   "tests/evaluation/test_agreement.py::test_the_word_is_removed_wherever_it_stands_alone"),
  # KID counts every picture as similar to itself: biased.
  ("kid biased", "idejax/evaluation/distributions.py",
   "(kernel(x, x).sum() - np.trace(kernel(x, x)))", "kernel(x, x).sum()",
   "tests/evaluation/test_distributions.py::test_kid_by_hand_and_over_subsets"),
  # Intervals know nothing of seeds.
  ("seeds not drawn again", "idejax/evaluation/intervals.py",
   "if (m := len(number)) > 1:", "if (m := len(number)) > 999:",
   "tests/evaluation/test_intervals.py::test_the_same_every_time_narrower_with_people_and_wider_with_what_seeds_add"),
  # The usual way to resize, in which FID is another number.
  ("pixels resized about their centres", "idejax/evaluation/preprocess.py",
   "at = np.arange(side, dtype=np.float32) * np.float32(count / side)",
   "at = np.maximum((np.arange(side, dtype=np.float32) + 0.5) * np.float32(count / side) - 0.5, 0)",
   "tests/evaluation/test_inception.py::test_tensorflows_resizing_reads_corners_as_they_lie"),
  # torchvision's last block, which is not the one that FID knows.
  ("last block averages", "idejax/nets/inception.py",
   "(_greatest if self.last else _average)(x)", "_average(x)",
   "tests/evaluation/test_inception.py::test_equal_to_the_twin_by_the_published_files_keys"),
  # A table of a stranger reads pictures anywhere on the disk.
  ("paths may climb out", "idejax/evaluation/rows.py",
   "if Path(text).is_absolute() or not path.is_relative_to(root):", "if Path(text).is_absolute():",
   "tests/evaluation/test_rows.py::test_a_link_that_leads_out_is_no_way_out"),
  # The recogniser that a method learned from judges it.
  ("judges judge their own pupils", "idejax/evaluation/scoring.py",
   "if x.about.digest in methods", "if x.about.digest in ()",
   "tests/evaluation/test_summary.py::test_a_recogniser_that_trained_a_method_does_not_judge_it"),
  # A method's name is a formula in the reader's spreadsheet.
  ("formulas in cells", "idejax/evaluation/writing.py",
   """return f"'{x}\"""", "return x",
   "tests/evaluation/test_summary.py::test_names_from_strangers_are_text_and_nothing_else"),
  # Each prompt has a noise of its own.
  ("noise by prompt", "idejax/evaluation/gallery.py",
   "Request(text, None, cell.seed, 0, job.guidance)", "Request(text, None, cell.seed, cell.prompt, job.guidance)",
   "tests/evaluation/test_gallery.py::test_a_seed_is_one_noise_for_all_methods_people_and_prompts"),
  ("one driver for all", "idejax/evaluation/gallery.py",
   "steer_person(who, cell.driver,", "steer_person(who, job.drivers[0],",
   "tests/evaluation/test_evaluate_command.py::test_people_by_facesnap_are_sampled_in_the_pose_of_every_driver"),
  ("drivers for everybody", "idejax/evaluation/gallery.py",
   "job.cells(who[t.name].is_face)", "job.cells(True)",
   "tests/evaluation/test_evaluate_command.py::test_people_by_facesnap_are_sampled_in_the_pose_of_every_driver"),
  ("the user's drivers are left out", "idejax/jobs/evaluate.py",
   "runs.write_drivers(files, photos)", "runs.write_drivers(files, [])",
   "tests/evaluation/test_evaluate_command.py::test_people_by_facesnap_are_sampled_in_the_pose_of_every_driver"),
]
