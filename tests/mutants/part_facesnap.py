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

  # The ControlNet that is made of a UNet.

  # It moves every picture before it has learned anything.
  ("zero convolutions not zero", "idejax/nets/controlnet.py",
   "out[name] = jax.tree.map(lambda s: jnp.zeros(s.shape), want)", "out[name] = jax.tree.map(lambda s: jnp.ones(s.shape), want)",
   "tests/nets/test_controlnet.py::test_made_of_a_unet_it_is_what_diffusers_makes_of_it[4-sd15]"),
  ("middle block's depth lost", "idejax/nets/controlnet.py",
   "for d in c.down_depths[:-1]), c.mid_depth]", "for d in c.down_depths[:-1]), 1]",
   "tests/nets/test_controlnet.py::test_a_config_comes_back_as_it_was[sdxl]"),
  ("control image of any size", "idejax/model/controlnets.py",
   '{"control pixels per latent pixel": cfg.factor, "control', '{"control pixels per latent pixel": n.factor, "control',
   "tests/model/test_controlnets.py::test_one_of_another_family_is_refused_before_its_weights_are_read"),
  # A bfloat16 run with a float32 ControlNet.
  ("ControlNet in the dtype of its file", "idejax/model/controlnets.py",
   "want = weights.with_dtype(net_shapes(controlnet.shapes, cfg, path), n.dtype)", "want = net_shapes(controlnet.shapes, cfg, path)",
   "tests/model/test_controlnets.py::test_it_has_the_backbones_dtype"),

  # Add-on folders.

  ("add-on of any width", "idejax/model/addon.py",
   "if cfg.context_dim != b.nets.unet.context_dim:", "if False:",
   "tests/model/test_addon.py::test_beside_another_family"),
  ("old add-on stays whole while a new one is written", "idejax/model/addon.py",
   '(folder / "addon.json").unlink(missing_ok=True)', "pass",
   "tests/model/test_addon.py::test_a_write_that_fails_leaves_no_add_on"),
  ("add-on's dtype ignored", "idejax/model/addon.py",
   "weights.to_torch(cast(m_params))", "weights.to_torch(m_params)",
   "tests/model/test_addon.py::test_its_parts_are_stock_files"),

  # Landmarks and control images.

  ("contour's far side from the chin up", "idejax/faces/landmarks.py",
   "**{i: 25 - i for i in range(9, 17)}", "**{i: i for i in range(9, 17)}",
   "tests/faces/test_landmarks.py::test_68_points_keep_their_places"),
  ("points of a lid at other places", "idejax/faces/landmarks.py",
   "return powers(np.array([0.25, 0.5, 0.75]))", "return powers(np.array([0.3, 0.5, 0.7]))",
   "tests/faces/test_landmarks.py::test_points_between_are_on_the_lids_curve"),
  ("lines twice as wide", "idejax/faces/control.py",
   "thick / (1 if dot else 2)", "thick",
   "tests/faces/test_landmarks.py::test_lines_are_as_wide_as_the_face_asks"),
  ("the device's dots as small as lines", "idejax/person/control.py",
   "line * (1 + dot) / 2", "line / 2",
   "tests/faces/test_landmarks.py::test_the_device_draws_the_same"),
  ("placed by pixel edges", "idejax/faces/control.py",
   "middle = np.array([photo[1] - 1, photo[0] - 1]) / 2", "middle = np.array([photo[1], photo[0]]) / 2",
   "tests/faces/test_landmarks.py::test_a_photos_landmarks_are_placed_in_the_picture"),
  ("region grown twice", "idejax/faces/mask.py",
   "(2 * grow + 1, 2 * grow + 1)", "(4 * grow + 1, 4 * grow + 1)",
   "tests/faces/test_landmarks.py::test_a_face_at_latent_size"),

  # Morphable models and the predictor.

  ("FLAME's expression among its shapes", "idejax/faces/morphable.py",
   "_FLAME_SHAPES = 300", "_FLAME_SHAPES = 299",
   "tests/faces/test_morphable.py::test_flames_layout"),
  ("jaw turned about the origin", "idejax/faces/morphable.py",
   "((vertices - joint) @ turn.T)", "(vertices @ turn.T)",
   "tests/faces/test_morphable.py::test_flames_jaw_is_the_derivative_of_its_skinning"),
  ("GNM's jaw in its file's order", "idejax/faces/morphable.py",
   "order[:17] = _along_the_jaw(_gather(vertices, *points))", "pass",
   "tests/faces/test_morphable.py::test_gnms_layout_and_its_jaw"),
  ("weights of landmarks not looked at", "idejax/faces/morphable.py",
   "if not np.allclose(weights.sum(1), 1, atol=1e-3):", "if False:",
   "tests/faces/test_morphable.py::test_files_that_will_not_do"),
  ("priors the wrong way round", "idejax/faces/fitting.py",
   "np.full(count, shape_weight), np.full(total - count, expression_weight)", "np.full(count, expression_weight), np.full(total - count, shape_weight)",
   "tests/faces/test_morphable.py::test_the_prior_draws_towards_the_mean_face_shape_more_than_expression"),
  ("y turned twice", "idejax/faces/fitting.py",
   "return fit.scale * points[:, :2] * _FLIP + fit.shift", "return fit.scale * points[:, :2] + fit.shift",
   "tests/faces/test_morphable.py::test_y_is_turned_once"),
  ("the driver's shape", "idejax/faces/fitting.py",
   "return driver._replace(shape=source.shape)", "return driver",
   "tests/faces/test_morphable.py::test_shape_from_the_source_all_else_from_the_driver"),
  ("the source's expression, too", "idejax/faces/fitting.py",
   "return driver._replace(shape=source.shape)", "return driver._replace(shape=source.shape, expression=source.expression)",
   "tests/faces/test_morphable.py::test_shape_from_the_source_all_else_from_the_driver"),
  ("a fit that misses is used", "idejax/faces/fitting.py",
   "if out.residual > LIMIT:", "if False:",
   "tests/faces/test_morphable.py::test_what_cannot_be_fitted"),

  # The crop and the identity loss.

  ("crop turned the other way", "idejax/person/likeness.py",
   "turn @ jnp.swapaxes(middle, 1, 2)], -1)", "jnp.swapaxes(turn, 1, 2) @ jnp.swapaxes(middle, 1, 2)], -1)",
   "tests/person/test_identity_loss.py::test_similarities_are_the_front_ends"),
  ("edge pixels repeated outside the picture", "idejax/person/likeness.py",
   "weight = jnp.where((x >= 0) & (x < w) & (y >= 0) & (y < h), weight, 0.0)", "weight += 0",
   "tests/person/test_identity_loss.py::test_equal_to_cv2"),
  ("gradient to the landmarks", "idejax/person/likeness.py",
   "where = jax.lax.stop_gradient(grid @ jnp.swapaxes(inverse, 1, 2))", "where = grid @ jnp.swapaxes(inverse, 1, 2)",
   "tests/person/test_identity_loss.py::test_its_gradient_is_the_crops_weights"),
  ("likeness without norms", "idejax/person/likeness.py",
   "return 1 - (a * b).sum(-1) / norms", "return 1 - (a * b).sum(-1)",
   "tests/person/test_identity_loss.py::test_the_loss"),

  # Steering in sampling.

  ("the add-on acts after its share of the steps", "idejax/model/backbone.py",
   "strength = jnp.where(t >= cond.control_until,", "strength = jnp.where(t < cond.control_until,",
   "tests/sampling/test_steering.py::test_it_acts_in_its_share_of_the_steps"),
  ("a face in the prompt's row alone", "idejax/sampling/steering.py",
   "put = lambda xs: jax.device_put(np.repeat(np.stack(xs), each, axis=0)", "put = lambda xs: jax.device_put(np.tile(np.stack(xs), (each,) + (1,) * np.ndim(xs[0]))",
   "tests/sampling/test_steering.py::test_both_branches_of_guidance_have_the_face"),
  ("a driver's landmarks in the driver's pixels", "idejax/sampling/steering.py",
   "marks = control.place(self.poser.driven(source.face, driver).landmarks, driver.photo.shape[:2], *size)", "marks = self.poser.driven(source.face, driver).landmarks",
   "tests/sampling/test_steering.py::test_poses"),
  ("several photos: the first counts", "idejax/sampling/steering.py",
   "np.float32).mean(0)", "np.float32)[0]",
   "tests/sampling/test_steering.py::test_several_photos_of_one_person_are_the_mean_of_their_tokens"),
  ("an add-on of another pack", "idejax/sampling/steering.py",
   "if pack.name != added.about.recogniser:", "if False:",
   "tests/sampling/test_steering.py::test_add_ons_that_do_not_fit"),

  # Poses of drawn people.

  ("the pivot forgotten on the way back", "idejax/miniature/judging/shapes.py",
   "- head.CENTRE - head.PIVOT * head.ZOOM * scale", "- head.CENTRE",
   "tests/miniature/test_shapes.py::test_a_scene_survives_the_way_into_the_crop_and_back"),
  ("the driver's measures", "idejax/miniature/judging/shapes.py",
   "return Prediction(marks(self.read(source)._replace(scene=self.read(driver).scene)), {})", "return Prediction(marks(self.read(driver)), {})",
   "tests/miniature/test_shapes.py::test_shape_is_the_sources_pose_and_mood_the_drivers"),
  ("landmarks of a pose at pixels' edges", "idejax/miniature/judging/shapes.py",
   "((result + 0.5) * (side / _SIDE) - side / 2 + middle)", "(result * (side / _SIDE) - side / 2 + middle)",
   "tests/miniature/test_shapes.py::test_poses_that_ship"),
  ("the photo may be overwritten", "idejax/jobs/pose.py",
   "if Path(name).is_file() and Path(name).resolve() == c.out.resolve():", "if False:",
   "tests/jobs/test_pose.py::test_bad_input"),

  # Its training.

  ("the region weighs the square", "idejax/methods/facesnap.py",
   "region = cfg.outside + (1 - cfg.outside) * batch", "region = cfg.outside**0.5 + (1 - cfg.outside) * batch",
   "tests/methods/test_facesnap.py::test_the_error_outside_the_region_does_not_count"),
  ("control pictures are never black", "idejax/methods/facesnap.py",
   "visible = measured & (draws.uniform(k_blank) >= cfg.blank)", "visible = measured & (draws.uniform(k_blank) >= 0)",
   "tests/methods/test_facesnap.py::test_faces_landmarks_and_words_are_read"),
  ("the few steps start at a spacing that leads", "idejax/methods/facesnap.py",
   "round(steps * (count - i) / count) - 1", "round(steps * (count - 1 - i) / count) + 1",
   "tests/methods/test_facesnap.py::test_a_few_steps_are_the_samplers"),
  ("the identity loss without its weight", "idejax/methods/facesnap.py",
   "return error + weight * (identity +", "return error + (identity +",
   "tests/methods/test_facesnap.py::test_the_identity_loss_teaches_mixer_and_controlnet"),
  ("due from the first step", "idejax/methods/facesnap.py",
   "due = step >= cfg.identity_after * cfg.steps and", "due =",
   "tests/methods/test_facesnap.py::test_the_step_says_when_the_identity_loss_is_due"),
  ("references of other people", "idejax/data/face_batches.py",
   "others = data.references[data.person[i]]\n    others = others[others != i]", "others = np.concatenate(data.references)",
   "tests/data/test_face_batches.py::test_references_are_other_pictures_of_the_same_person"),
  ("captions not part of the data", "idejax/data/face_batches.py",
   '[[x["digest"], x["captions"], side, portrait', '[[x["digest"], side, portrait',
   "tests/data/test_face_batches.py::test_another_caption_is_other_data"),
  ("CLIP's last layer", "idejax/model/vision.py",
   "net.apply({\"params\": p}, x).penultimate", "net.apply({\"params\": p}, x).last",
   "tests/model/test_vision.py::test_equal_to_transformers"),
]
