"""Mistakes in what methods learn and how negative prompts are read, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # On SDXL an untrained person drowns the prompt.
  ("SDXL's words as long as the encoder's output", "idejax/model/anchors.py",
   'if size == "output" or size == "auto" and not b.nets.xl:', 'if size in ("output", "auto"):',
   "tests/methods/test_starts.py::test_untrained_words_are_at_most_twice_as_loud_as_names"),
  # ID-EA's enhancer attends to a layer that SDXL's UNet never sees.
  ("anchor of SDXL from the last layer", "idejax/model/anchors.py",
   "return output.penultimate if b.nets.xl else output.last", "return output.last",
   "tests/methods/test_starts.py::test_id_eas_anchor_is_what_the_unet_reads_of_the_average_name"),
  # Another person's face gives the same pictures.
  ("the face as small as a unit vector", "idejax/methods/id_ea.py",
   "tokens = blocks.dense(p, size * face)", "tokens = blocks.dense(p, face)",
   "tests/methods/test_id_ea.py::test_the_enhancer_sees_the_face"),
  # The adapter moves all of the padding by one vector.
  ("padding adapted", "idejax/model/conditioning.py",
   "return (0 < at) & (at <= jnp.asarray(prompts.eos[0])[:, None])", "return (0 < at) | (prompts.eos[0][:, None] < 0)",
   "tests/methods/test_id_ea.py::test_the_adapter_leaves_start_and_padding_alone"),
  # A person's keys and values read "ugly, blurred" too, and guidance pulls away from the person.
  ("negative prompts read by the person", "idejax/sampling/texts.py",
   "(group, () if plain else group)[", "(group, group)[",
   "tests/sampling/test_prompting.py::test_whose_weights_read_negative_prompts"),
  # DreamBooth's UNet reads them, whatever was asked.
  ("negative prompts read by the changed UNet", "idejax/sampling/pipeline.py",
   "enumerate((b, plain))", "enumerate((b, b))",
   "tests/sampling/test_prompting.py::test_whose_weights_read_negative_prompts[low_rank]"),
  # The attention loss is 31 times weaker on the built-in model than in the paper.
  ("lambda by the number of a model's entries", "idejax/methods/sefi_ide.py",
   " * (ENTRIES / square[0].size)", "",
   "tests/methods/test_sefi_ide.py::test_attention_loss_of_random_maps"),
  # The average of DreamBooth's steps is computed and thrown away.
  ("last weights in place of their average", "idejax/methods/dreambooth.py",
   'weights = params.get("average", params)', 'weights = {k: v for k, v in params.items() if k != "average"}',
   "tests/methods/test_dreambooth.py::test_the_average_of_the_steps_is_kept"),
  # A small face in a large photo stays small for every method.
  ("photos are squares", "idejax/person/subjects.py",
   'return "square" if pack.bundled else "head"', 'return "square"',
   "tests/person/test_subjects.py::test_the_head_is_framed_as_in_ffhq_whatever_the_photo"),
  ("the mask of a head is the photo's", "idejax/person/subjects.py",
   "photo.points, side, mirror=False) > 127", "photo.points, side) > 127",
   "tests/person/test_subjects.py::test_beyond_the_photo_its_mirror_image_is_no_face"),
  ("a head's pixels lie half a pixel off", "idejax/faces/align.py",
   "matrix[:, 2] += (scale - 1) / 2", "matrix[:, 2] += 0",
   "tests/faces/test_align.py::test_a_crop_of_another_size_shows_the_same"),
]  # fmt: skip
