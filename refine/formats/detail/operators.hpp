#pragma once

#include <cstddef>
#include <string_view>

/// The operators that a TorchScript image classifier may name: arithmetic on tensors, numbers,
/// strings, lists and dicts, and queries of a tensor's properties. They touch no file, process or
/// network, and no memory except that of their tensors. `tests/programs/operators_test.cpp` calls each with arguments that
/// do not fit each other, between pages that cannot be read or written.
///
/// An operator that is missing here is refused. Add an operator only for what it does. Never add
/// those of `file_access` and `memory_access`, nor quantised, sparse and custom operators, which
/// validate their arguments less. tools/operator_survey.py lists the operators of torchvision's
/// classifiers.
namespace refine::formats::operators {

/// Permitted operators of the namespace `aten`, without overloads. The in-place form (`add_`) is
/// included.
inline constexpr std::string_view aten =
    "Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit "
    "Size __and__ __contains__ __derive_index __getitem__ __iand__ __ilshift__ __interpolate "
    "__ior__ __irshift__ __is__ __isnot__ __ixor__ __lshift__ __not__ __or__ __range_length "
    "__round_to_zero_floordiv __rshift__ __upsample __upsample_bilinear __upsample_nearest "
    "__xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _addmm_activation "
    "_assert_async _assert_scalar _assert_tensor_metadata _autocast_to_full_precision "
    "_autocast_to_reduced_precision _batch_norm_impl_index _cast_Byte _cast_Char _cast_Double "
    "_cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _conj _conj_copy _conj_physical "
    "_convolution _convolution_mode _dim_arange _functional_assert_async _get_tracing_state "
    "_infer_size _is_all_true _is_any_true _list_to_tensor _log_softmax "
    "_native_batch_norm_legit_no_training _native_multi_head_attention "
    "_nested_tensor_from_mask _nested_tensor_from_mask_left_aligned _pack_padded_sequence "
    "_pad_circular _pad_enum _safe_softmax _set_item _shape_as_tensor _size_if_not_equal "
    "_softmax _to_copy _transformer_encoder_layer_fwd _trilinear _unique _unique2 "
    "_unsafe_view _unwrap_optional _upsample_bicubic2d_aa _upsample_bilinear2d_aa "
    "_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d abs absolute acos acosh adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint "
    "affine_grid_generator alias alias_copy all allclose alpha_dropout amax amin aminmax "
    "angle any append arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax "
    "argmin argsort argwhere as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d "
    "atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm bartlett_window batch_norm bernoulli "
    "bilinear bin binary_cross_entropy binary_cross_entropy_with_logits bincount binomial "
    "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor "
    "blackman_window block_diag bmm broadcast_shapes broadcast_tensors broadcast_to bucketize "
    "can_cast capitalize cartesian_prod cat cauchy cdist ceil celu center chain_matmul chalf "
    "channel_shuffle cholesky cholesky_inverse cholesky_solve chr chunk clamp clamp_max "
    "clamp_min clear clip clone col2im column_stack combinations complex concat concatenate "
    "conj conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc "
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copy_ copysign "
    "corrcoef cos cosh cosine_embedding_loss cosine_similarity count count_nonzero cov cpu "
    "cross cross_entropy_loss cuda cummax cummin cumprod cumsum cumulative_trapezoid deg2rad "
    "degrees det detach detach_copy device diag diag_embed diagflat diagonal diagonal_copy "
    "diagonal_scatter dict diff digamma dim dist div divide divmod dot dropout dsplit dstack "
    "einsum element_size elu embedding empty empty_like empty_permuted endswith eq equal erf "
    "erfc erfinv exp exp2 expand expand_as expand_copy expandtabs expm1 exponential extend "
    "eye fabs factorial fake_quantize_per_channel_affine "
    "fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine "
    "fake_quantize_per_tensor_affine_cachemask feature_alpha_dropout feature_dropout fft_fft "
    "fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft "
    "fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 "
    "fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fill_diagonal find fix flatten "
    "flatten_dense_tensors flip fliplr flipud float_power floor floor_divide floordiv fmax "
    "fmin fmod format frac fractional_max_pool2d fractional_max_pool3d frexp frobenius_norm "
    "full full_like gamma gather gcd ge gelu geometric geqrf ger get get_autocast_dtype "
    "get_device glu gradient greater greater_equal grid_sampler grid_sampler_2d "
    "grid_sampler_3d group_norm gru gru_cell gt hamming_window hann_window hardshrink "
    "hardsigmoid hardswish hardtanh has_torch_function heaviside hex hinge_embedding_loss "
    "histc histogram histogramdd hsplit hstack huber_loss hypot i0 igamma igammac im2col imag "
    "index index_add index_copy index_fill index_put index_reduce index_select inner insert "
    "instance_norm inverse is_autocast_cpu_enabled is_autocast_enabled is_complex is_conj "
    "is_contiguous is_distributed is_floating_point is_grad_enabled is_inference is_leaf "
    "is_neg is_nonzero is_pinned is_same_size is_scripting is_signed isalnum isalpha isclose "
    "isdecimal isdigit isfinite isidentifier isin isinf islower isnan isneginf isnumeric "
    "isposinf isprintable isreal isspace istft istitle isupper item items join kaiser_window "
    "keys kl_div kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu len lerp less "
    "less_equal lgamma lift lift_fresh lift_fresh_copy linalg_cholesky linalg_cholesky_ex "
    "linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh "
    "linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex "
    "linalg_ldl_factor linalg_ldl_factor_ex linalg_lstsq linalg_lu linalg_lu_factor "
    "linalg_lu_factor_ex linalg_lu_solve linalg_matmul linalg_matrix_exp linalg_matrix_norm "
    "linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv "
    "linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd "
    "linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot "
    "linalg_vector_norm linear linspace list ljust log log10 log1p log2 log_normal "
    "log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not "
    "logical_or logical_xor logit logspace logsumexp lower lstm_cell lstrip lt lu_solve mH mT "
    "margin_ranking_loss masked_fill masked_scatter masked_select mathremainder matmul "
    "matrix_H matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d "
    "max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean median meshgrid "
    "min minimum mish mm mode modf moveaxis movedim mse_loss msort mul multi_margin_loss "
    "multilabel_margin_loss multinomial multiply mv mvlgamma nan_to_num nanmean nanmedian "
    "nanquantile nansum narrow narrow_copy native_channel_shuffle native_dropout "
    "native_group_norm native_layer_norm native_norm ne neg negative new_empty new_full "
    "new_ones new_zeros nextafter nll_loss nll_loss2d nll_loss_nd nonzero nonzero_numpy "
    "nonzero_static norm norm_except_dim normal not_equal nuclear_norm numel numpy_T oct "
    "one_hot ones ones_like ord outer pad pad_sequence pairwise_distance partition pdist "
    "percentFormat permute permute_copy pinverse pixel_shuffle pixel_unshuffle poisson "
    "poisson_nll_loss polar polygamma pop popitem positive pow prelu prod promote_types put "
    "qr quantile rad2deg radians rand rand_like randint randint_like randn randn_like random "
    "randperm range ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d "
    "relu relu6 remainder remove renorm repeat repeat_interleave replace replication_pad1d "
    "replication_pad2d replication_pad3d requires_grad_ reshape reshape_as resolve_conj "
    "resolve_neg result_type reverse rfind rindex rjust rms_norm rnn_relu rnn_relu_cell "
    "rnn_tanh rnn_tanh_cell roll rot90 round row_stack rpartition rrelu rsplit rsqrt rstrip "
    "rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce "
    "searchsorted select select_copy select_scatter selu set_grad_enabled setdefault sgn "
    "sigmoid sign signbit silu sin sinc sinh size slice slice_copy slice_inverse "
    "slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax softplus softshrink sort "
    "sorted special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 "
    "special_bessel_y1 special_digamma special_entr special_erf special_erfc special_erfcx "
    "special_erfinv special_exp2 special_expit special_expm1 special_gammainc "
    "special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e "
    "special_log1p special_log_ndtr special_log_softmax special_logit special_logsumexp "
    "special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 "
    "special_modified_bessel_k1 special_multigammaln special_ndtr special_ndtri "
    "special_polygamma special_psi special_round special_scaled_modified_bessel_k0 "
    "special_scaled_modified_bessel_k1 special_sinc special_softmax "
    "special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta split split_copy "
    "split_with_sizes split_with_sizes_copy splitlines sqrt square squeeze squeeze_copy stack "
    "startswith std std_mean stft storage_offset str stride strip sub subtract sum "
    "sum_to_size svd swapaxes swapcase swapdims sym_is_contiguous sym_numel sym_size "
    "sym_storage_offset sym_stride t t_copy take take_along_dim tan tanh tensor tensor_split "
    "tensordot thnn_conv2d threshold tile title to to_dense to_padded_tensor topk trace "
    "transpose transpose_copy trapezoid trapz triangular_solve tril tril_indices "
    "triplet_margin_loss triu triu_indices true_divide trunc type_as unbind unbind_copy "
    "unflatten unflatten_dense_tensors unfold unfold_copy uniform unique_consecutive "
    "unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes "
    "unsqueeze unsqueeze_copy update upper upsample_bicubic2d upsample_bilinear2d "
    "upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_trilinear3d values vander var var_mean vdot view view_as view_as_complex "
    "view_as_complex_copy view_as_real view_as_real_copy view_copy vsplit vstack warn where "
    "xlogy zero zeros zeros_like zfill";

/// Permitted operators of the namespace `prim` in source files.
inline constexpr std::string_view prim =
    "NumToTensor RaiseException abs data device dtype grad index is_cpu is_cuda is_ipu is_maia "
    "is_meta is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan "
    "is_xla is_xpu itemsize layout max min name nbytes ndim rangelist requires_grad shape type "
    "unchecked_unwrap_optional";

/// Permitted operators of the namespace `prim` in compiled graphs only: source files have a syntax
/// for them.
inline constexpr std::string_view structure =
    "CallFunction CallMethod Constant CreateObject DictConstruct Enter Exit GetAttr If ListConstruct "
    "ListUnpack Loop Param Return SetAttr TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized "
    "annotate isinstance tolist unchecked_cast";

namespace detail {

/// Returns true if `word` is one of the space-separated `words`.
constexpr bool has_word(std::string_view words, std::string_view word) {
  if (word.empty() || word.find(' ') != std::string_view::npos) return false;
  for (std::size_t i = words.find(word); i != std::string_view::npos; i = words.find(word, i + 1)) {
    const std::size_t end = i + word.size();
    if ((i == 0 || words[i - 1] == ' ') && (end == words.size() || words[end] == ' ')) return true;
  }
  return false;
}

}  // namespace detail

/// Returns true if a source file may name the operator.
/// \param qualified the name with its namespace: "aten::conv2d"
constexpr bool permits(std::string_view qualified) {
  constexpr std::string_view of_aten = "aten::", of_prim = "prim::";
  if (qualified.starts_with(of_prim)) return detail::has_word(prim, qualified.substr(of_prim.size()));
  if (!qualified.starts_with(of_aten)) return false;
  const std::string_view name = qualified.substr(of_aten.size());
  const bool in_place = name.ends_with('_') && !name.ends_with("__");
  return detail::has_word(aten, name) ||
         (in_place && detail::has_word(aten, name.substr(0, name.size() - 1)));
}

/// Returns true if a compiled graph may have a node of this kind.
/// \param qualified the kind with its namespace: "prim::If"
constexpr bool permits_node(std::string_view qualified) {
  constexpr std::string_view of_prim = "prim::";
  return permits(qualified) ||
         (qualified.starts_with(of_prim) && detail::has_word(structure, qualified.substr(of_prim.size())));
}

/// What refine knows about an operator.
enum class Kind {
  harmless,   ///< arithmetic: it may run
  quantized,  ///< computes with quantised numbers: harmless, but no gradient passes through it
  harmful,    ///< reaches files, memory, other processes or Python
  library,    ///< belongs to another library, which must be loaded before it can run
  unknown,    ///< an operator of PyTorch that is in none of the lists
};

/// Operators of the namespace `aten` that read or write files.
inline constexpr std::string_view file_access = "from_file save";

/// Operators of the namespace `aten` that reach memory beyond their tensors.
inline constexpr std::string_view memory_access =
    "_copy_from _copy_from_and_resize _nested_view_from_buffer _nested_view_from_buffer_copy "
    "_nested_view_from_jagged _reshape_alias _reshape_alias_copy _resize_output _sparse_bsc_tensor_unsafe "
    "_sparse_bsr_tensor_unsafe _sparse_compressed_tensor_unsafe _sparse_coo_tensor_unsafe "
    "_sparse_csc_tensor_unsafe _sparse_csr_tensor_unsafe _unsafe_index _unsafe_index_put as_strided "
    "as_strided_copy as_strided_scatter data_ptr empty_strided new_empty_strided resize resize_as "
    "resize_as_sparse set set_data sparse_resize sparse_resize_and_clear storage";

/// Operators of the namespace `aten` whose kernels do not compare the sizes of all of their arguments, and then read or
/// write beyond them. Those that classifiers need are permitted, and checked before each call (`check_arguments`).
inline constexpr std::string_view unchecked =
    "_native_batch_norm_legit _stack _tensor_to_list _weight_norm linalg_ldl_solve lstm lu_unpack native_batch_norm "
    "rrelu_with_noise";

/// True for operators of BatchNorm that a program of torch.export may name, since `aten::batch_norm`, which checks its
/// arguments, is called in their place.
/// \param target the operator with its namespace and overload: "aten::native_batch_norm.default"
constexpr bool is_replaced(std::string_view target) {
  return target == "aten::_native_batch_norm_legit.default" ||
         target == "aten::_native_batch_norm_legit_no_training.default" ||
         target == "aten::native_batch_norm.default";
}

/// Operators of the namespace `aten` that create, take or compute with quantised numbers. Those
/// that only imitate quantisation (`fake_quantize_per_tensor_affine`) have a gradient and are
/// permitted.
inline constexpr std::string_view quantized =
    "_choose_qparams_per_tensor _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu "
    "_dyn_quant_matmul_4bit _dyn_quant_pack_4bit_weight _empty_affine_quantized "
    "_empty_per_channel_affine_quantized _int_mm _make_per_channel_quantized_tensor "
    "_make_per_tensor_quantized_tensor _saturate_weight_to_fp16 _weight_int4pack_mm "
    "_weight_int4pack_mm_for_cpu _weight_int8pack_mm _wrapped_linear_prepack "
    "_wrapped_quantized_linear_prepacked choose_qparams_optimized dequantize empty_quantized "
    "fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation fbgemm_linear_int8_weight "
    "fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_quantize_weight fbgemm_pack_gemm_matrix_fp16 "
    "fbgemm_pack_quantized_matrix int_repr q_per_channel_axis q_per_channel_scales "
    "q_per_channel_zero_points q_scale q_zero_point qscheme quantize_per_channel quantize_per_tensor "
    "quantize_per_tensor_dynamic quantized_batch_norm quantized_gru quantized_gru_cell quantized_lstm "
    "quantized_lstm_cell quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d "
    "quantized_rnn_relu_cell quantized_rnn_tanh_cell";

/// Returns the kind of an operator that a source file or a graph names.
/// \param qualified the name with its namespace: "aten::conv2d"
constexpr Kind classify(std::string_view qualified) {
  if (permits_node(qualified)) return Kind::harmless;
  const std::size_t colons = qualified.find("::");
  if (colons == std::string_view::npos) return Kind::harmful;  // not an operator of LibTorch
  const std::string_view space = qualified.substr(0, colons);
  std::string_view name = qualified.substr(colons + 2);
  if (detail::has_word("quantized _quantized quantized_decomposed onednn torchao", space)) {
    return Kind::quantized;
  }
  if (space == "prim" || space == "rpc" || space == "dist_autograd" || space == "cuda") {
    return Kind::harmful;
  }
  if (space != "aten") return Kind::library;
  if (name.ends_with('_')) name.remove_suffix(1);
  if (detail::has_word(quantized, name)) return Kind::quantized;
  if (detail::has_word(file_access, name) || detail::has_word(memory_access, name) ||
      detail::has_word(unchecked, name) || name == "wait") {
    return Kind::harmful;
  }
  return Kind::unknown;
}

/// Returns why an operator does not run, as a relative clause that follows its name.
/// \param qualified the name with its namespace: "aten::save"
/// \return the clause; empty for a harmless operator
constexpr std::string_view refusal_reason(std::string_view qualified) {
  switch (classify(qualified)) {
    case Kind::harmless:
      return "";
    case Kind::quantized:
      return "which computes with quantised numbers";
    case Kind::library:
      return "which belongs to another library and is not part of PyTorch";
    case Kind::unknown:
      return "which refine does not know";
    case Kind::harmful:
      break;
  }
  constexpr std::string_view of_aten = "aten::";
  if (qualified.starts_with(of_aten)) {
    std::string_view name = qualified.substr(of_aten.size());
    if (name.ends_with('_')) name.remove_suffix(1);
    if (detail::has_word(file_access, name)) return "which reads or writes files";
    if (detail::has_word(memory_access, name)) return "which reaches memory outside its tensors";
    if (detail::has_word(unchecked, name)) return "which does not check the sizes of its tensors";
  }
  return "which is not tensor arithmetic";
}

}  // namespace refine::formats::operators
