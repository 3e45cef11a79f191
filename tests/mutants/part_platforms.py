"""Mistakes in what differs by machine: tokenizers, products of bfloat16, FLOPs of kernels, a device's check.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # Letters with accents of their own become other tokens.
  ("accents stay apart", "idejax/model/bpe.py",
   "[normalizers.NFC(), normalizers.Replace", "[normalizers.Replace",
   "tests/model/test_tokens.py::test_equal_to_transformers"),
  # End-of-text in capitals is taken for the token in SD 1.5.
  ("padding does not add its token again", "idejax/model/bpe.py",
   "token not in out:", "str(token) not in map(str, out):",
   "tests/model/test_tokens.py::test_equal_to_transformers"),
  # Words that were added stand where a vocabulary's size puts them, not at their own ids.
  ("added words in any order", "idejax/model/bpe.py",
   "out: list[Any] = [at[i] for i in sorted(at)]", "out: list[Any] = [at[i] for i in sorted(at, reverse=True)]",
   "tests/model/test_tokens.py::test_equal_to_transformers"),
  # A gradient multiplies float32 with bfloat16, which no unit does.
  ("cotangents stay float32", "idejax/nets/products.py",
   "  dy = dy.astype(jnp.bfloat16)\n", "",
   "tests/nets/test_products.py::test_attention_is_exact_and_every_product_of_one_dtype"),
  ("gradient by the kernel as it is", "idejax/nets/products.py",
   "kernel[::-1, ::-1].swapaxes(2, 3)", "kernel.swapaxes(2, 3)",
   "tests/nets/test_products.py::test_a_convolution_as_shifted_matmuls"),
  ("narrow convolutions are matmuls too", "idejax/nets/convolve.py",
   "min(i, o) >= products.WIDE", "o >= products.WIDE",
   "tests/nets/test_products.py::test_convolutions_are_matmuls_only_where_there_are_units_and_channels"),
  # bfloat16 is computed, slowly, on CPUs that only emulate it.
  ("bfloat16 everywhere", "idejax/nets/target.py",
   " and not cpu_multiplies_bfloat16()\n", "\n",
   "tests/model/test_backbone.py::test_bfloat16_but_for_a_vae_that_asks_for_float32"),
  ("cuDNN for odd lengths", "idejax/nets/attention.py",
   "d <= 128 and even:", "d <= 128:",
   "tests/nets/test_attention.py::test_choice"),
  ("one block of a kernel counts", "idejax/runtime/flops.py",
   'prod(p["grid_mapping"].grid) * ', "",
   "tests/planning/test_flops.py::test_kernels_count_as_what_they_compute"),
  ("one device's part counts", "idejax/runtime/flops.py",
   "  total *= prod", "  prod",
   "tests/planning/test_flops.py::test_what_devices_compute_each_is_added_up"),
  # Parts that are done run again.
  ("a check from the start", "launch/check_device.sh",
   "  if [[ -s $out/$part.json ]]; then\n    echo", "  if [[ ! -e $out ]]; then\n    echo",
   "tests/jobs/test_check_device.py::test_every_part_once_then_a_table"),
  ("a wrong figure is no failure", "idejax/bench/device_table.py",
   "good &= right is not False", "good &= True",
   "tests/jobs/test_check_device.py::test_a_figure_that_is_wrong_is_an_exit_code"),
  ("the first Python is taken, whether it works or not", ".ci/python",
   "assert '%d.%d' % sys.version_info[:2] == '$version'", "",
   "tests/test_ci.py::test_a_python_of_another_name_counts_by_its_version"),
]
