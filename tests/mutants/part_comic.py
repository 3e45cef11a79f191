"""Mistakes in the comic app, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # Ben's words go to Anna when she is spoken to last.
  ("an object pronoun may mean its own subject", "idejax/app/rules.py",
   "exclude = subject if not owns and not acts else set()", "exclude = set()",
   "tests/app/test_comic_story.py::test_a_story_becomes_these_panels"),
  # A sentence with "she" is drawn as a stranger.
  ("pronouns of a language model are let through", "idejax/app/story.py",
   "if m := PRONOUN.search(without_quotes(s)):", "if m := PRONOUN.search(\"\"):",
   "tests/app/test_comic_story.py::test_after_three_failures_the_rules_answer_and_say_so"),
  # "Ann Lee-Smith" is drawn as Ann Lee.
  ("shortest name first", "idejax/app/names.py",
   "longest_first = sorted(names, key=len, reverse=True)", "longest_first = sorted(names, key=len)",
   "tests/app/test_comic_names.py::test_longest_first_possessives_kept_case_and_boundaries_count"),
  # Cyrillic letters get around every rule.
  ("look-alikes not undone", "idejax/app/policy.py",
   ".casefold().translate(_LOOKALIKE)", ".casefold()",
   "tests/app/test_comic_policy.py::test_nudity_is_found_in_every_spelling"),
  # A prompt that was typed by hand is not read.
  ("the panel's own prompt is not checked", "idejax/app/studio.py",
   "(f\"the prompt of panel {i}\", names.to_names(t, p.people)) for t in final[p.id]", "(\"x\", \"\") for t in final[p.id][:0]",
   "tests/app/test_comic_studio.py::test_prompts_are_read_as_the_model_reads_them"),
  # A flagged picture is written all the same.
  ("the picture check's word is ignored", "idejax/app/concepts.py",
   "hit = denied.max() > harmless.max(initial=-1.0) + self.rules.margin", "hit = False",
   "tests/app/test_comic_studio.py::test_a_flagged_picture_never_leaves"),
  # Somebody who was deleted is still to be seen in their comics.
  ("deleting leaves the panels", "idejax/app/store.py",
   "for f in [*files, *pages]:", "for f in pages:",
   "tests/app/test_comic_studio.py::test_deleting_somebody_deletes_everything_derived"),
  # After somebody was learned again, the old pictures stay.
  ("embeddings are no input of a panel", "idejax/app/script.py",
   "{n: digests[n] for n in sorted(panel.people)}", "{n: n for n in sorted(panel.people)}",
   "tests/app/test_comic_script.py::test_what_changes_the_pixels_changes_the_digest_and_nothing_else"),
  # A speech bubble lies over a face.
  ("faces are no obstacle", "idejax/app/bubbles.py",
   "obstacles = [_grow(f, _CLEAR) for f in faces] + [_grow(p.rect, 6) for p in others]", "obstacles = [_grow(p.rect, 6) for p in others]",
   "tests/app/test_comic_pages.py::test_on_the_finished_page_every_face_is_there_and_uncovered"),
  # Pictures go out without the mark.
  ("saved without the mark", "idejax/app/watermark.py",
   "marked = Image.fromarray(embed(image))", "marked = Image.fromarray(image)",
   "tests/app/test_comic_watermark.py::test_files_say_that_they_were_generated"),
  # Without consent somebody is learned.
  ("consent not asked for", "idejax/app/store.py",
   "if not self.by.strip():", "if False:",
   "tests/app/test_comic_studio.py::test_without_consent_nothing_is_stored_or_learned"),
  # Another visitor's people appear in a browser without a token.
  ("any token opens the first folder", "idejax/app/visitors.py",
   "token = secrets.token_urlsafe(24)", "token = \"A\" * 32",
   "tests/app/test_comic_visitors.py::test_a_browser_has_a_folder_that_only_its_token_names"),
  # A sentence that comes between two others draws the rest of the comic again.
  ("a panel's seed goes by its place", "idejax/app/script.py",
   "int(number[1]) - 1 if number else", "[p.id for p in script.panels].index(panel.id) if number else",
   "tests/app/test_comic_studio.py::test_a_panel_between_others_draws_no_other_again"),
  # A box is kept for somebody who is not in the panel, and a stranger is drawn there.
  ("anybody may have a place", "idejax/app/stage.py",
   "if person not in people:", "if False:",
   "tests/app/test_comic_visitors.py::test_places_as_lines_come_back_and_are_checked"),
  # Behind a box stands a stretched face that nobody knows of; bubbles cover it.
  ("behind a box there is a face", "idejax/app/shots.py",
   ".filter(ImageFilter.GaussianBlur(height / 10))", "",
   "tests/app/test_comic_studio.py::test_where_nobody_stands_there_is_no_face"),
  # The app does not start with a model of photographs: its face pack finds no face in a drawing.
  ("drawn people for every model", "idejax/app/samples.py",
   "if not studio.small_world or studio.pack.name != \"miniature\":", "if False:",
   "tests/app/test_comic_studio.py::test_the_sample_people_are_of_the_drawn_world_only"),
  # The board shows the middle of the picture, the page another part: a bubble lands beside where it was put.
  ("the board is not the page", "idejax/app/stage.py",
   "x0, y0, x1, y1 = pages.crop(size, cell, version.faces)", "x0, y0, x1, y1 = 0.0, 0.0, size[0], size[1]",
   "tests/app/test_comic_visitors.py::test_the_board_shows_what_the_page_cuts_out"),
  # Nothing holds the boxes of one picture together.
  ("boxes without the whole picture", "idejax/sampling/regions.py",
   "whole = np.where(count > 0, share, 1.0)", "whole = np.where(count > 0, 0.0, 1.0)",
   "tests/sampling/test_regions.py::test_boxes_share_the_picture_among_the_prompts"),
  # Every candidate of a panel with boxes is the same picture.
  ("a picture of several prompts has one noise", "idejax/sampling/regions.py",
   "pl.noise(whole.seed, whole.index, shape)", "pl.noise(whole.seed, 0, shape)",
   "tests/sampling/test_regions.py::test_one_box_over_all_is_the_prompts_own_picture"),
  # Both people are drawn faintly in both boxes.
  ("the whole picture's prompt names the people", "idejax/app/studio.py",
   "names.pattern(p.people).sub(\"a person\", full)]", "full]",
   "tests/app/test_comic_studio.py::test_regions_of_other_models_share_one_picture"),
  # Who presses Stop while others draw gets the comic all the same, ten minutes later.
  ("a stop is forgotten while one waits", "idejax/app/actions.py",
   "  if v.stop.is_set():", "  if False:",
   "tests/app/test_comic_visitors.py::test_stop_counts_for_what_waits_and_for_nothing_later"),
  # Who stands at the edge of a wide picture is not looked at.
  ("the picture check sees the middle only", "idejax/app/concepts.py",
   "rows = iter(self.scores([", "parts = [p[len(p) // 2 :][:1] for p in parts]\n    rows = iter(self.scores([",
   "tests/app/test_comic_studio.py::test_the_whole_of_a_wide_picture_is_checked"),
  # After a new training the sample people are strangers: rows learned on other weights.
  ("what ships of people fits any weights", "idejax/app/samples.py",
   "(record.model_digest, record.pack_digest) != (studio.pipe.digest, studio.pack.digest)", "record.pack_digest != studio.pack.digest",
   "tests/app/test_comic_studio.py::test_what_ships_of_the_sample_people_is_theirs"),
  # What stands on the right of a wide picture does not count.
  ("a wide picture agrees as its first square does", "idejax/app/concepts.py",
   "means = np.stack([np.mean(list(itertools.islice(seen, len(own))), 0) for own in parts])", "means = np.stack([next(seen) for own in parts])",
   "tests/app/test_comic_studio.py::test_the_agreement_of_a_wide_picture_is_that_of_all_of_it"),
  # The candidates of a model of photographs are not ranked.
  ("no likeness without the drawn world's judges", "idejax/app/judging.py",
   "    if not len(found.boxes):\n", "    if True:\n",
   "tests/app/test_comic_studio.py::test_a_model_of_photographs_ranks_by_pack_and_clip"),
  # The page offers what cannot be learned: there is no add-on to read the face.
  ("one look is offered without an add-on", "idejax/app/offers.py",
   "and (addon or method not in ADDONS)", "and True",
   "tests/app/test_comic_offers.py::test_what_one_photo_is_enough_for_is_offered_the_usual_first"),
  # A method that the page did not offer is trained all the same.
  ("any method that a browser sends", "idejax/app/actions.py",
   "offers.check(method, studio.offers)", "method",
   "tests/app/test_comic_offers.py::test_only_what_is_offered_is_learned_and_by_that"),
  # In the middle of the comic the sampler refuses a prompt with two people of two methods.
  ("whoever meets shares a prompt", "idejax/app/studio.py",
   "or len(ways) > 1 and not plain else ()", "else ()",
   "tests/app/test_comic_offers.py::test_people_who_cannot_share_a_prompt_have_their_own_part"),
  # After the comic's style was changed, a panel that was once saved keeps the old one.
  ("a saved card has styles of its own", "idejax/app/edits.py",
   "style=None if style == s.style else style", "style=style",
   "tests/app/test_comic_edits.py::test_a_card_keeps_what_it_says"),
  # Draw on one card draws what was saved on the others, too.
  ("one panel's Draw draws the comic", "idejax/app/studio.py",
   "if panel in (\"\", n) for shot", "for shot",
   "tests/app/test_comic_edits.py::test_a_re_roll_draws_its_own_panel_alone"),
  # Who goes back to an earlier text sees the picture of the later one.
  ("the newest picture is shown for any text", "idejax/app/script.py",
   "versions=(*others, *own))", "versions=(*own, *others))",
   "tests/app/test_comic_edits.py::test_a_change_draws_that_panel_alone_and_going_back_draws_nothing"),
  # Of two panels with the same sentence the second is drawn anew at every edit.
  ("a sentence is there once", "idejax/app/studio.py",
   "same[text].pop(0) if same.get(text)", "same.pop(text)[0] if same.get(text)",
   "tests/app/test_comic_edits.py::test_two_panels_may_say_the_same"),
  # After Save the field still shows what was typed before it was put right.
  ("what was typed hides what is saved", "idejax/app/visitors.py",
   "return typed if base == saved else saved", "return typed",
   "tests/app/test_comic_visitors.py::test_what_was_typed_stays_until_something_else_is_saved"),
  # A face whose eye is beyond the border wins, where the detector's boxes end at the border.
  ("eyes may lie outside the picture", "idejax/app/judging.py",
   "or near.min() < _NEAR ", "",
   "tests/app/test_comic_judging.py::test_a_border_cuts_a_face"),
  # Somebody stands behind somebody else's head.
  ("one face may cover another", "idejax/app/judging.py",
   "max(hidden, default=0) >= 2", "max(hidden, default=0) > 5",
   "tests/app/test_comic_judging.py::test_a_larger_face_hides_a_smaller_one"),
  # Half a face with a good score is shown.
  ("scores alone rank candidates", "idejax/app/script.py",
   "return not v.reason, -v.cut,", "return not v.reason, 0,",
   "tests/app/test_comic_judging.py::test_of_candidates_the_whole_face_is_shown"),
]
