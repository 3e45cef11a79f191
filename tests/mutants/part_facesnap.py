"""Mistakes in FaceSnap's nets, landmarks and losses, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # The mixer.

  # Eq. 1 without its residual.
  ("identity tokens replaced by what they attend to", "idejax/nets/mixer.py",
   "tokens = faces[0] + mix(", "tokens = mix(",
   "tests/nets/test_mixer.py::test_equal_to_the_reference[mixer]"),
  # Keys are f_clip alone.
  ("identity tokens do not see themselves", "idejax/nets/mixer.py",
   'self.norm("mix.norm_context")(tokens))', 'self.norm("mix.norm_context")(faces[-1]))',
   "tests/nets/test_mixer.py::test_equal_to_the_reference[mixer]"),
  # A recogniser whose vectors are longer gives other tokens.
  ("embedding not scaled", "idejax/nets/mixer.py",
   "unit *= math.sqrt(c.identity_dim) / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)", "unit *= 1",
   "tests/nets/test_mixer.py::test_clips_tokens_have_no_order_and_the_embedding_no_length"),
  ("context of the decoder without its norm", "idejax/nets/mixer.py",
   'self.norm("norm2_context")(y))', "y)",
   "tests/nets/test_mixer.py::test_full_sizes[768-127312384]"),
]
