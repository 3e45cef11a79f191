"""Mistakes in the glue between photos, examples, people and pictures, and the test that notices each.

(name, file, its text, the mistaken text, tests that must fail)
"""

MUTANTS = [
  # People in prompts.

  # "<a> and <b>" puts b in a's place.
  ("people of a prompt reversed", "idejax/sampling/texts.py",
   "      identities = [self.people[w].identity for w in group]\n      cond =",
   "      identities = [self.people[w].identity for w in group[::-1]]\n      cond =",
   "tests/sampling/test_prompting.py::test_rows_of_real_words_sample_what_the_words_sample"),
  # One ID-EA person of a batch is sampled with the keys and values of another.
  ("keys and values go to the wrong rows", "idejax/sampling/texts.py",
   "self.under(_pick, mask, projected, out)", "self.under(_pick, mask, out, projected)",
   "tests/sampling/test_prompting.py::test_several_people_and_a_plain_prompt_in_one_job_equal_each_alone[id_ea_person]"),
  # Learned keys and values are never used.
  ("keys and values not applied", "idejax/sampling/texts.py",
   "self.under(project, backbone.with_unet(self.backbone, changes), cond)", "self.under(project, self.backbone, cond)",
   "tests/sampling/test_prompting.py::test_several_people_and_a_plain_prompt_in_one_job_equal_each_alone[id_ea_person]"),
  # DreamBooth's LoRA acts on cross-attention's keys and values alone.
  ("any change of keys and values counts as only that", "idejax/sampling/texts.py",
   "return all(_only_kv(v,", "return any(_only_kv(v,",
   "tests/sampling/test_prompting.py::test_changes_beyond_cross_attentions_keys_and_values_need_a_batch_of_their_own"),
  # SeFi-IDE's two rows become one: values are read from the keys' context.
  ("values from the keys' context", "idejax/sampling/texts.py",
   "Encoding(k[:, i], v[:, i], None", "Encoding(k[:, i], k[:, i], None",
   "tests/sampling/test_prompting.py::test_an_encoding_is_what_the_method_says"),
  # Two people of different settings in one prompt are both sampled with the first one's.
  ("settings of people not compared", "idejax/sampling/texts.py",
   "{(self.people[w].method, self.people[w].cfg) for w in group}", "{self.people[w].method for w in group}",
   "tests/sampling/test_prompting.py::test_people_who_do_not_fit"),
  # One DreamBooth UNet samples everybody of the job.
  ("whole weights mixed in a batch", "idejax/sampling/batching.py",
   "kinds.setdefault(g if whole(g) else None, [])", "kinds.setdefault(None, [])",
   "tests/sampling/test_batching.py::test_every_picture_is_in_one_batch_and_whole_weights_are_not_mixed"),
  # Two processes sample and write the same picture at the end of a job.
  ("padding made twice", "idejax/sampling/batching.py",
   "set(batch[at]) - set(batch[: at.start])", "set(batch[at])",
   "tests/sampling/test_batching.py::test_of_padding_the_first_row_counts"),
  # A whole DreamBooth UNet is loaded, and the base model samples.
  ("whole weights not used", "idejax/sampling/pipeline.py",
   "        changes.backbone_of(people[0]),", "        pipe.backbone,",
   "tests/sampling/test_prompting.py::test_several_people_and_a_plain_prompt_in_one_job_equal_each_alone[whole_unet]"),
  # Under guidance half of a batch's rows get another person's keys and values.
  ("people of a batch's rows not interleaved", "idejax/sampling/pipeline.py",
   "people = [reader for i in batch for reader in changes.readers(groups[i], guided)]",
   "people = [changes.readers(groups[i])[k] for k in range(1 + guided) for i in batch]",
   "tests/sampling/test_prompting.py::test_several_people_and_a_plain_prompt_in_one_job_equal_each_alone[id_ea_person]"),
  # --init-latents: pictures after the first batch start from the first batch's noise.
  ("given noise by row of the batch", "idejax/sampling/pipeline.py",
   "else init_latents[batch]", "else init_latents[: len(batch)]",
   "tests/sampling/test_pipeline.py::test_noise_that_is_given_goes_with_its_picture"),

  # Training examples.

  # v-prediction models, the built-in ones among them, learn to predict noise.
  ("noise as every model's target", "idejax/person/subject.py",
   "target(z, noise, abar, schedule.prediction_type)", 'target(z, noise, abar, "epsilon")',
   "tests/person/test_subject.py::test_noise_and_target_equal_diffusers"),
  # Training sees latents five times as large as those that are sampled.
  ("latents not scaled", "idejax/person/subject.py",
   "  z = backbone.scale_latents(b, z)\n", "",
   "tests/person/test_subject.py::test_latents_are_the_scaled_sample_of_the_moments"),
  # The posterior's deviation is its variance: photos are encoded with less noise than the VAE's own.
  ("variance for deviation", "idejax/person/subject.py",
   "jnp.exp(0.5 * logvar)", "jnp.exp(logvar)",
   "tests/person/test_subject.py::test_latents_are_the_scaled_sample_of_the_moments"),
  # The noise to be removed is also in the clean latents.
  ("one key for two noises", "idejax/person/subject.py",
   "noise = draws.normal(k_noise, shape)", "noise = draws.normal(k_latent, shape)",
   "tests/person/test_subject.py::test_latents_are_the_scaled_sample_of_the_moments"),
  # The word learns what everybody looks like: the class's pictures are captioned "sks person".
  ("class pictures captioned by the word", "idejax/methods/dreambooth.py",
   "last = jnp.full_like(caption, len(cfg.templates))", "last = caption",
   "tests/methods/test_dreambooth.py::test_the_class_prompt_goes_with_class_pictures_and_the_word_with_the_persons"),
  # Prior preservation teaches washed-out pictures.
  ("class pictures in [0, 1]", "idejax/personalizing/learn.py",
   "images.astype(np.float32) / 127.5 - 1), vit)", "images.astype(np.float32) / 255), vit)",
   "tests/jobs/test_personalize.py::test_class_pictures_are_encoded_as_the_vae_reads_pictures"),
  # Everybody of a crowd gets the face tokens of the first photo.
  ("first person's subject for all of a crowd", "idejax/training/fit.py",
   "frozen._replace(subject=person(frozen.subject, i))", "frozen._replace(subject=person(frozen.subject, 0))",
   "tests/jobs/test_personalize.py::test_everybody_of_a_crowd_keeps_what_is_theirs"),
  # Masked losses look at the hair for the face.
  ("face and hair masks swapped", "idejax/person/subjects.py",
   "    small(pool.face),\n    small(pool.hair),", "    small(pool.hair),\n    small(pool.face),",
   "tests/person/test_subject.py::test_masks_lie_where_face_and_hair_are"),
  # A mirrored variant is trained towards the embedding of the face that was not mirrored.
  ("recogniser sees no mirror image", "idejax/person/subjects.py",
   "np.ascontiguousarray(x[:, ::-1]) if flip else x", "x",
   "tests/person/test_subject.py::test_the_recogniser_sees_each_variant_as_it_was_mirrored"),
  # Masks lie beside the face wherever a variant is cropped.
  ("masks not cropped with the picture", "idejax/person/augment.py",
   "size) for p in parts]\n\n\ndef _paste", "size) if p is parts[0] else p for p in parts]\n\n\ndef _paste",
   "tests/person/test_augment.py::test_masks_follow_the_picture_through_crop_and_canvas"),
  # Faces turn green and blue in training: the hue turns twenty times as far.
  ("hue jittered like brightness", "idejax/person/augment.py",
   "rng.uniform(-how.jitter, how.jitter) / 20", "rng.uniform(-how.jitter, how.jitter)",
   "tests/person/test_augment.py::test_colours_are_recorded_and_stay_in_their_ranges"),
  # Pictures of a bfloat16 model preserve the prior of a float32 one.
  ("class pictures kept whatever the dtype", "idejax/sampling/class_pictures.py",
   "str(pipe.backbone.nets.dtype), prompt", "prompt",
   "tests/sampling/test_class_pictures.py::test_others_are_others"),

  # The optimiser.

  # One bad gradient, and a person's weights are NaN for the rest of the run.
  ("norm of the gradient not checked", "idejax/training/step.py",
   'jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) &', 'jnp.isfinite(metrics["loss"]) &',
   "tests/training/test_step.py::test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is"),
  # SDXL's keys and values learn ten times slower than configured.
  ("no rule for low-rank keys and values", "idejax/methods/id_ea.py",
   '    (r"^kv.*\\.[AB]$", late(cfg.lr_lora, cfg.weight_decay)),\n', "",
   "tests/methods/test_id_ea.py::test_every_part_learns_at_its_own_rate"),
  # DreamBooth's LoRA learns at the rate of the whole UNet: nothing is seen after 300 steps.
  ("LoRA at the whole UNet's rate", "idejax/methods/dreambooth.py",
   '(r"^lora", group(cfg.lora_lr))', '(r"^lora", group(cfg.lr))',
   "tests/methods/test_dreambooth.py::test_factors_and_whole_weights_learn_at_rates_of_their_own"),
  # Initial factors and the first step's noise are one random number.
  ("first parameters share a step's key", "idejax/training/fit.py",
   "jax.random.fold_in(key, 2**31)", "jax.random.fold_in(key, 0)",
   "tests/training/test_fit.py::test_where_parameters_begin_shares_no_random_numbers_with_a_step"),

  # What is shown and scored.

  # A picture without a face gives its place, and every later score, to the next person.
  ("scores shifted by a picture without a face", "idejax/miniature/judging/scoring.py",
   "for i, e in zip(where, face_metrics", "for i, e in enumerate(face_metrics",
   "tests/evaluation/test_metrics.py::test_a_picture_without_a_face_shifts_nobodys_embedding"),
  # A crowd's report draws the first person for everybody.
  ("first person's word in all prompts of a report", "idejax/evaluation/report.py",
   'p.replace("{}", people[i].word) for', 'p.replace("{}", people[0].word) for',
   "tests/jobs/test_personalize.py::test_a_runs_pictures_are_of_everybody_by_every_prompt_and_seed"),
  # Beside everybody's pictures stands the first person's photo.
  ("first person's photo in all rows of the sheet", "idejax/evaluation/report.py",
   "resize(reference(person), _SIDE)", "resize(reference(people[0]), _SIDE)",
   "tests/jobs/test_personalize.py::test_a_runs_pictures_are_of_everybody_by_every_prompt_and_seed"),
]  # fmt: skip
