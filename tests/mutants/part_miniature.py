"""Mistakes in how the built-in model is trained, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # The grown UNet no longer draws what the old one did.
  ("a new transformer block speaks at once", "idejax/miniature/training/growth.py",
   "more = np.zeros_like(x) if _ZERO_IN_BLOCK.search(path) else x", "more = x",
   "tests/miniature/test_recipe.py::test_a_unet_grows_into_sdxls_architecture_and_computes_the_same"),
  ("pooled text speaks at once", "idejax/miniature/training/growth.py",
   "(proj_out|add_embedding\\.linear_2)", "(proj_out)",
   "tests/miniature/test_recipe.py::test_a_unet_grows_into_sdxls_architecture_and_computes_the_same"),
  # The words of the old UNet are lost.
  ("what is read of other text encoders is transposed", "idejax/miniature/training/growth.py",
   "left = ((y - x @ found) ** 2).sum()", "found = found.T\n  left = ((y - x @ found) ** 2).sum()",
   "tests/miniature/test_recipe.py::test_the_context_map_is_what_makes_one_encoders_context_of_anothers"),
  # Calmer poses would leave out the ends of their ranges, or lie away from the middle.
  ("calm poses off their middle", "idejax/miniature/world/scene.py",
   "((low + high) / 2 + (high - low) / 2 * np.sign(side)", "(low + (high - low) * np.sign(side)",
   "tests/miniature/test_recipe.py::test_calm_scenes_keep_the_middle_the_ends_and_everything_that_words_name"),
  ("wild poses are as calm as the others", "idejax/miniature/world/data.py",
   "sc.scenes(ids, count, seed, calm)", "sc.scenes(ids, count, seed)",
   "tests/miniature/test_recipe.py::test_wild_pictures_show_other_poses_and_have_the_same_captions"),
  # The exam would praise what it should blame.
  ("an upper bound is read as a lower one", "idejax/miniature/judging/exam.py",
   "value <= asked if goal.at_most else value >= asked", "value >= asked",
   "tests/miniature/test_exam.py::test_goals_are_bounds_below_or_above_and_lower_for_what_the_sdxl_shaped_model_is_told"),
  ("the SDXL-shaped model is asked as much as the other", "idejax/miniature/judging/exam.py",
   "self.value - (_LESS if xl and self.spoken else 0)", "self.value",
   "tests/miniature/test_exam.py::test_goals_are_bounds_below_or_above_and_lower_for_what_the_sdxl_shaped_model_is_told"),
]  # fmt: skip
