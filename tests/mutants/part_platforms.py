"""Mistakes in what differs by machine: tokenizers, products of bfloat16, FLOPs of kernels, a device's check.

(name, file, its text, the mistaken text, tests that must fail)
"""

_CHECK = "tests/planning/test_plan.py::test_a_check_sets_the_sum_of_the_blocks_beside_the_whole_step"

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
  # Plans for GPUs that are not there.
  ("a node of one GPU", "idejax/planning/topology.py",
   '"topology": f"1x1x{t.size}"', '"topology": "1x1x1"',
   "tests/planning/test_gpus.py::test_the_compiler_is_told_of_the_node_and_what_it_says_is_passed_on"),
  ("half of a GPU's units", "idejax/planning/gpus.py",
   "fpus_per_core: {g.lanes}", "fpus_per_core: {g.lanes // 2}",
   "tests/planning/test_gpus.py::test_a_description_is_in_xlas_fields_and_has_the_data_sheets_figures"),
  ("kernels are tried on a GPU that is not there", "idejax/planning/compiler.py",
   '"cuda": {"xla_gpu_autotune_level"', '"rocm": {"xla_gpu_autotune_level"',
   "tests/planning/test_gpus.py::test_the_step_of_a_compilation_that_fails_is_named"),
  ("bytes that no compiler counts are none", "idejax/planning/figures.py",
   'or m.argument_size_in_bytes + m.output_size_in_bytes', "or 0",
   "tests/planning/test_gpus.py::test_bytes_of_a_compiler_that_counts_none_are_those_of_arguments_and_results"),
  # Estimates from blocks.
  ("FLOPs of the blocks are the step's by name", "idejax/jobs/plan.py",
   '(blocks_["flops_of_blocks"], whole["flops"])', '(blocks_["flops"], whole["flops"])',
   _CHECK),
  ("a check without the whole step", "idejax/jobs/plan.py",
   "if full or c.check else None", "if full else None",
   _CHECK),
  ("a batch in parts is one part's work", "idejax/planning/blocks.py",
   "flops_ += passes * count", "flops_ += count",
   _CHECK),
  ("a loop's bytes count once", "idejax/planning/blocks.py",
   "first.accessed + (block.depth - 1) * more.accessed", "first.accessed",
   "tests/planning/test_plan.py::test_a_deep_transformer_is_its_first_block_and_others_like_it"),
  ("every method compiles every block", "idejax/planning/blocks.py",
   "if any(re.search(r, path) for path in paths))\n  question", ")\n  question",
   "tests/planning/test_plan.py::test_what_trains_elsewhere_makes_no_other_block"),
]
