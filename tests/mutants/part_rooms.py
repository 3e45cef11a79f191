"""Mistakes in the methods' contract, in what a ControlNet is given, and in name inversion.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # `--strength` of a control picture does nothing.
  ("control's strength ignored", "idejax/model/backbone.py",
   "image, added, scale[:, None, None, None], embedded)", "image, added, 1.0, embedded)",
   "tests/model/test_control.py::test_each_row_is_steered_by_its_own_image_context_and_strength"),
  # FaceSnap's face tokens never reach the ControlNet.
  ("control reads the text always", "idejax/model/backbone.py",
   "text = select(cond.k) if cond.control_context is None else cond.control_context", "text = select(cond.k)",
   "tests/model/test_control.py::test_predict_adds_the_residuals_of_its_controlnet"),
  # StableIdentity and SeFi-IDE run on SDXL with Stable Diffusion's settings.
  ("one default preset for all families", "idejax/methods/contract.py",
   'return f"{name}-sdxl" if xl and f"{name}-sdxl" in presets else name', "return name",
   "tests/methods/test_contract.py::test_the_default_preset_follows_the_models_family"),
  # Plans leave out the gradients of ID-EA's keys and values.
  ("keys and values not planned", "idejax/methods/id_ea.py",
   'unet_gradients=() if cfg.kv == "none" else (_KV,)', "unet_gradients=()",
   "tests/methods/test_contract.py::test_what_planning_counts_of_id_ea_are_its_keys_and_values"),
  # A caption of a person's training never names the person.
  ("captions without the word", "idejax/methods/contract.py",
   'c.replace("{}", word)', 'c.replace("{}", "person")',
   "tests/methods/test_contract.py::test_the_word_takes_its_place_in_captions_and_other_braces_stay"),
  # All vectors of a word begin as first names.
  ("no second names", "idejax/methods/name_inversion.py",
   "alternate = np.arange(cfg.vectors) % 2", "alternate = np.arange(cfg.vectors) * 0",
   "tests/methods/test_name_inversion.py::test_vectors_begin_as_first_and_second_names_in_turn_and_apart"),
  # The penalty pulls vectors to zero instead of to a name's length.
  ("length pulled to zero", "idejax/methods/name_inversion.py",
   "jnp.square(jnp.concatenate(relative) - 1)", "jnp.square(jnp.concatenate(relative))",
   "tests/methods/test_name_inversion.py::test_the_penalty_is_zero_where_vectors_are_as_long_as_names_and_grows_both_ways"),
  # The penalty is a metric and trains nothing.
  ("penalty not in the loss", "idejax/methods/name_inversion.py",
   "return error + cfg.norm * deviation,", "return error,",
   "tests/methods/test_name_inversion.py::test_the_loss_is_the_error_and_the_weighted_penalty"),
]  # fmt: skip
