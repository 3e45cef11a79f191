"""Mistakes in options, ranges and run folders, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # --beta 50 trains for minutes and gives a face of noise.
  ("ranges are not looked at", "idejax/ranges.py",
   "next((rule.words for rule in _rules(kind) if not rule.holds(value)), None)", "None",
   "tests/cli/test_method_options.py::test_mistakes_are_one_sentence"),
  # A learning rate of NaN passes: every comparison with it is false.
  ("not a number is a number", "idejax/ranges.py",
   "isinstance(value, float) and not math.isfinite(value)", "False",
   "tests/cli/test_cli.py::test_config_files_are_typed"),
  # --compare: the first method trains 5 steps, all others 150.
  ("shared options for the first method only", "idejax/cli/method_options.py",
   "  for field in () if method in ADDONS else s.overrides:", "  for field in s.overrides if own else ():",
   "tests/jobs/test_compare.py::test_what_compare_names"),
  # A comparison repeated from its config.json trains its methods unlike the first time.
  ("what a comparison shares is not kept", "idejax/cli/method_options.py",
   '{"given": list(s.overrides)} if s.run.compare else {}', "{}",
   "tests/jobs/test_compare.py::test_a_comparison_repeated_from_its_config_trains_alike"),
  # --prompt a --prompt b draws b alone.
  ("the last of repeated options counts", "idejax/cli/options.py",
   "(*out.get(option.name, ()), *new) if option.several", "new if option.several",
   "tests/cli/test_cli.py::test_prompts_may_be_repeated"),
  # --no-adapter turns the adapter on.
  ("no- is not no", "idejax/cli/options.py",
   "out[flags[name].name] = flag in flags", "out[flags[name].name] = True",
   "tests/cli/test_cli.py::test_spellings"),
  # An identity without an adapter gets one that was never trained.
  ("old switches lost", "idejax/methods/contract.py",
   "    out |= table[old][bool(fields[old])]\n", "    pass\n",
   "tests/cli/test_method_options.py::test_names_of_earlier_versions_are_understood"),
  # A wedding's sheet.png is overwritten by a contact sheet.
  ("foreign sheets are ours", "idejax/jobs/picture_folder.py",
   "return sheet if sheet.exists() and not ours else None", "return None",
   "tests/jobs/test_bad_input.py::test_one_sentence[out with a sheet of others]"),
  # Another seed writes its config.json over that of a finished run, and then is refused.
  ("a run's folder is not looked at", "idejax/jobs/run_folder.py",
   "  old = _read(out / \"config.json\")\n  if old is None:\n    for name", "  old = None\n  if old is None:\n    for name",
   "tests/jobs/test_first_contact.py::test_a_run_its_refusals_and_its_end"),
  # report.json is no JSON.
  ("NaN is written", "idejax/storage/files.py",
   "return None if isinstance(value, float) and not math.isfinite(value) else value", "return value",
   "tests/jobs/test_first_contact.py::test_a_figure_that_was_not_measured_is_null"),
  # A full disk is noticed when the last picture does not fit.
  ("room on the disk is not looked at", "idejax/storage/files.py",
   "if need > 2**24 and free < need:", "if need > 2**24 and free < 0:",
   "tests/jobs/test_first_contact.py::test_what_a_disk_has_no_room_for_is_told_before_a_model_is_read"),
  ("a copy needs no room", "idejax/exporting/folders.py",
   "total += min(sizes.values(), default=0)", "total += 0",
   "tests/jobs/test_first_contact.py::test_what_a_disk_has_no_room_for_is_told_before_a_model_is_read"),
  # Captions in Chinese are boxes where the system has no font.
  ("shipped fonts are not used", "idejax/storage/fonts.py",
   "return (own(), *shipped(), *dict", "return (own(), *dict",
   "tests/storage/test_sheets.py::test_names_of_other_scripts_are_written_on_a_machine_without_fonts"),
  # prepare: a photo that changed keeps what was computed of the old one.
  ("a changed photo is not seen", "idejax/data/preparing/parts.py",
   "[list(i) for i in items], list(before)]", "[i.name for i in items], list(before)]",
   "tests/data/test_prepare.py::test_a_changed_setting_or_earlier_part_makes_a_part_old"),
  ("pixels' centres are pixels' corners", "idejax/data/preparing/squares.py",
   "- corner + 0.5) * scale - 0.5", "- corner) + 7.5 * scale",
   "tests/data/test_prepare.py::test_the_square_holds_the_face_where_its_points_say"),
  ("any alike face is a duplicate", "idejax/data/preparing/rules.py",
   "if near.any() and (embeddings", "if len(others) and (embeddings",
   "tests/data/test_prepare.py::test_near_duplicates_are_alike_in_looks_and_in_face"),
  # The card of a file without the adapter shows the figures of the whole method.
  ("a lossy form has the whole method's figures", "idejax/exporting/cards.py",
   "lines += _UNMEASURED if facts[\"lossy\"] else _scores(report)", "lines += _scores(report)",
   "tests/exporting/test_export.py::test_a_lossy_form_is_marked_wherever_it_shows"),
]  # fmt: skip
