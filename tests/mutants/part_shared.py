"""Mistakes in joint training, in what is shared, in DreamBooth's text encoder and in trainings' intervals, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # Adam's memory moves the words of people who have no example in a step, most of them in most steps.
  ("people not seen are moved", "idejax/training/joint.py",
   "n, o: jnp.where(present.reshape(-1, *[1] * (n.ndim - 1)), n, o)", "n, o: n",
   "tests/training/test_joint.py::test_who_has_no_row_in_a_step_stays_and_who_has_moves_as_by_their_rows_alone"),
  # Of ten people each learns a tenth as fast.
  ("ones own learns by everybody's rows", "idejax/training/joint.py",
   "_scale(x[person], weight)", "x[person]",
   "tests/training/test_joint.py::test_gradients_of_ones_own_are_means_over_ones_own_rows"),
  # The words carry who it is, and the modules nothing.
  ("no row with the words as they began", "idejax/training/joint.py",
   "jnp.where(plain, begin[person],", "jnp.where(False, begin[person],",
   "tests/training/test_joint.py::test_plain_rows_train_what_all_have_in_common_and_nobodys_own"),
  ("a picture with another one's caption", "idejax/training/joint.py",
   "lambda x: x[person, picture][None]", "lambda x: x[person, 0][None]",
   "tests/training/test_joint.py::test_a_picture_with_a_caption_of_its_own_trains_with_that"),
  ("a face of the first picture only", "idejax/training/joint.py",
   "s._replace(face=s.faces[face])", "s._replace(face=s.faces[0])",
   "tests/training/test_joint.py::test_faces_are_of_the_rows_person_and_of_any_of_their_pictures"),
  # A person from shared modules trains all of them again.
  ("shared modules are not frozen", "idejax/methods/id_ea.py",
   "if cfg.shared_trains else rest", "if shared else rest",
   "tests/methods/test_id_ea_shared.py::test_the_words_alone_train_unless_more_is_asked"),
  ("shared modules are left out of the person", "idejax/methods/id_ea.py",
   'params = {**frozen.constants.get("modules", {}), **params}', "params = {**params}",
   "tests/methods/test_id_ea_shared.py::test_swapped_faces_swap_what_the_adapter_does"),
  ("a module of another shape is taken", "idejax/model/shared.py",
   "if x.shape != want[name]:", "if x.ndim != len(want[name]):",
   "tests/model/test_shared.py::test_modules_of_another_shape_are_refused"),
  # The text encoder trains, and pictures are made with the base's.
  ("prompts read by the base's text encoder", "idejax/methods/dreambooth.py",
   "    b = conditioning.with_text(b, changes)", "    b = b",
   "tests/methods/test_dreambooth.py::test_a_changed_text_encoder_reads_prompts_that_name_the_person"),
  ("the name as it was before the table trained", "idejax/methods/dreambooth.py",
   'if "text" not in weights:', 'if "text" in weights or "text" not in weights:',
   "tests/methods/test_dreambooth.py::test_the_name_is_read_off_the_table_as_it_is_trained"),
  # The weight is squared once more by the error.
  ("the face's weight squared", "idejax/methods/dreambooth.py",
   "return jnp.sqrt(weight / weight.mean((1, 2, 3), keepdims=True))", "return weight / weight.mean((1, 2, 3), keepdims=True)",
   "tests/methods/test_dreambooth.py::test_the_face_may_count_more"),
  # Three trainings with twenty pictures each count as sixty trainings.
  ("trainings are not drawn again", "idejax/evaluation/intervals.py",
   "for level in zip(*map(_parts, when)):", "for level in [list(map(_parts, when))]:",
   "tests/evaluation/test_intervals.py::test_intervals_cover_trainings_as_well_as_pictures_seeds"),
  ("two trainings of a person in one job", "idejax/evaluation/gallery.py",
   "yield name, seed, [t for t in people if t.training == seed]", "yield name, seed, list(people)",
   "tests/evaluation/test_gallery.py::test_every_training_of_a_person_is_sampled_with_the_same_noise"),
]  # fmt: skip
