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
   "middle, most = (low + high) / 2, (high - low) / 2", "middle, most = low, high - low",
   "tests/miniature/test_recipe.py::test_calm_scenes_keep_the_middle_the_ends_and_everything_that_words_name"),
]  # fmt: skip
