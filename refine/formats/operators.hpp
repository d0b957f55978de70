#pragma once

#include <cstddef>
#include <string_view>

namespace refine::formats {

/// The operators that an image classifier in TorchScript may name: arithmetic on tensors, numbers, strings,
/// lists and dicts, and what asks a tensor about itself. They touch no file, no process, no network and no
/// memory but their tensors'. What is missing is refused, so a name is added for what it does only: never
/// `aten::save` and `aten::from_file`, which reach files, `aten::set_`, `aten::resize_` and
/// `aten::as_strided`, which reach memory, nor quantised, sparse and custom operators, whose code checks
/// less.
namespace operators {

/// Of the namespace `aten`, without overloads; an in-place form (`add_`) goes with its name.
inline constexpr std::string_view aten =
    "Bool Complex Delete Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ "
    "__derive_index __getitem__ __iand__ __ilshift__ __interpolate __ior__ __irshift__ __is__ __isnot__ "
    "__ixor__ __lshift__ __not__ __or__ __range_length __round_to_zero_floordiv __rshift__ __upsample "
    "__upsample_bilinear __upsample_nearest __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "_batch_norm_impl_index _conj _convolution _convolution_mode _log_softmax "
    "_native_multi_head_attention _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned "
    "_pack_padded_sequence _set_item _shape_as_tensor _size_if_not_equal _softmax "
    "_transformer_encoder_layer_fwd _unsafe_view _unwrap_optional _upsample_bicubic2d_aa "
    "_upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d _weight_norm abs absolute acos acosh adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "add addbmm addcdiv addcmul addmm addmv addr affine_grid_generator alias all alpha_dropout amax amin "
    "aminmax angle any append arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin "
    "argsort argwhere as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d "
    "avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear binary_cross_entropy "
    "binary_cross_entropy_with_logits bitwise_and bitwise_left_shift bitwise_not bitwise_or "
    "bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_shapes broadcast_tensors "
    "broadcast_to bucketize capitalize cartesian_prod cat cdist ceil celu chain_matmul channel_shuffle "
    "chunk clamp clamp_max clamp_min clear clip clone col2im column_stack combinations complex concat "
    "concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d convolution copy copy_ copysign corrcoef cos cosh cosine_embedding_loss "
    "cosine_similarity count count_nonzero cov cpu cross cross_entropy_loss cuda cummax cummin cumprod "
    "cumsum cumulative_trapezoid deg2rad degrees det detach device diag diag_embed diagflat diagonal dict "
    "diff "
    "digamma dim dist div divide divmod dot dropout dsplit dstack einsum elu embedding empty empty_like "
    "endswith eq equal erf erfc erfinv exp exp2 expand expand_as expm1 exponential extend eye factorial "
    "feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft "
    "fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq "
    "fft_rfftn fill find fix flatten flip fliplr flipud float_power floor floor_divide floordiv fmax fmin "
    "fmod format frac frobenius_norm full full_like gather gcd ge gelu get glu greater greater_equal "
    "grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window hann_window "
    "hardshrink hardsigmoid hardswish hardtanh heaviside hinge_embedding_loss histc hsplit hstack "
    "huber_loss hypot im2col imag index index_add index_copy index_fill index_put index_select inner "
    "insert instance_norm inverse is_autocast_cpu_enabled is_autocast_enabled is_complex is_contiguous "
    "is_floating_point is_grad_enabled is_leaf is_nonzero is_same_size is_scripting is_signed isalnum "
    "isalpha isclose isdigit isfinite isinf islower isnan isneginf isposinf isreal isspace istft istitle "
    "isupper item items join keys kl_div kron kthvalue l1_loss layer_norm le leaky_relu len lerp less "
    "less_equal lgamma linalg_cholesky linalg_cross linalg_det linalg_eigh linalg_eigvalsh linalg_inv "
    "linalg_lstsq linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power "
    "linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve "
    "linalg_svd linalg_svdvals linalg_vector_norm linear linspace list ljust log log10 log1p log2 "
    "log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or "
    "logical_xor logit logspace logsumexp lower lstm lstm_cell lstrip lt margin_ranking_loss masked_fill "
    "masked_scatter masked_select mathremainder matmul matrix_exp matrix_power max max_pool1d "
    "max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices "
    "maximum mean median meshgrid min minimum mish mm mode modf moveaxis movedim mse_loss mul multinomial "
    "multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow narrow_copy "
    "native_batch_norm native_dropout native_group_norm native_layer_norm native_norm ne neg negative "
    "new_empty new_full new_ones new_zeros nll_loss nll_loss2d nll_loss_nd nonzero nonzero_numpy norm "
    "normal not_equal nuclear_norm numel numpy_T one_hot ones ones_like ord outer pad pairwise_distance "
    "partition pdist permute pinverse pixel_shuffle pixel_unshuffle poisson polar polygamma pop popitem "
    "positive pow prelu prod qr quantile rad2deg radians rand rand_like randint randint_like randn "
    "randn_like random randperm range ravel real reciprocal reflection_pad1d reflection_pad2d "
    "reflection_pad3d relu relu6 remainder remove renorm repeat repeat_interleave replace "
    "replication_pad1d replication_pad2d replication_pad3d requires_grad_ reshape reshape_as resolve_conj "
    "resolve_neg reverse rfind rjust rms_norm rnn_relu rnn_tanh roll rot90 round rrelu rsplit rsqrt "
    "rstrip rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce "
    "searchsorted select select_scatter selu set_grad_enabled setdefault sgn sigmoid sign signbit silu "
    "sin sinc sinh size slice slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax softplus "
    "softshrink sort sorted special_erf special_erfc special_erfinv special_exp2 special_expit "
    "special_expm1 special_gammaln special_log1p special_log_softmax special_logit special_logsumexp "
    "special_ndtr special_ndtri special_round special_sinc special_softmax special_xlogy split "
    "split_with_sizes splitlines sqrt square squeeze stack startswith std std_mean stft str stride strip "
    "sub subtract sum sum_to_size svd swapaxes swapcase swapdims t take take_along_dim tan tanh tensor "
    "tensor_split tensordot threshold tile title to to_dense to_padded_tensor topk trace transpose "
    "trapezoid trapz triangular_solve tril tril_indices triplet_margin_loss triu triu_indices true_divide "
    "trunc type_as unbind unflatten unfold uniform unique_consecutive unique_dim unsafe_chunk "
    "unsafe_split unsafe_split_with_sizes unsqueeze update upper upsample_bicubic2d upsample_bilinear2d "
    "upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d "
    "_autocast_to_full_precision _autocast_to_reduced_precision get_autocast_dtype "
    "values vander var var_mean vdot view view_as view_as_complex view_as_real vsplit vstack warn where "
    "xlogy zero zeros zeros_like zfill";

/// Of the namespace `prim`, as a source file names them.
inline constexpr std::string_view prim =
    "NumToTensor RaiseException abs data device dtype grad index is_cpu is_cuda is_meta is_mkldnn is_mps "
    "is_nested is_quantized is_sparse is_xpu itemsize layout max min name nbytes ndim rangelist "
    "requires_grad shape type unchecked_unwrap_optional";

/// Of the namespace `prim`, as only LibTorch's compiler makes them: a source file has a syntax for them.
inline constexpr std::string_view structure =
    "CallFunction CallMethod Constant CreateObject DictConstruct Enter Exit GetAttr If ListConstruct "
    "ListUnpack Loop Param Return SetAttr TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized "
    "annotate isinstance tolist unchecked_cast";

namespace detail {

/// Whether `word` is one of the words that spaces part in `words`.
constexpr bool has_word(std::string_view words, std::string_view word) {
  if (word.empty() || word.find(' ') != std::string_view::npos) return false;
  for (std::size_t at = words.find(word); at != std::string_view::npos; at = words.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || words[at - 1] == ' ') && (end == words.size() || words[end] == ' ')) return true;
  }
  return false;
}

}  // namespace detail

/// Whether a source file may name the operator, such as "aten::conv2d".
constexpr bool permits(std::string_view qualified) {
  constexpr std::string_view of_aten = "aten::", of_prim = "prim::";
  if (qualified.starts_with(of_prim)) return detail::has_word(prim, qualified.substr(of_prim.size()));
  if (!qualified.starts_with(of_aten)) return false;
  const std::string_view name = qualified.substr(of_aten.size());
  const bool in_place = name.ends_with('_') && !name.ends_with("__");
  return detail::has_word(aten, name) ||
         (in_place && detail::has_word(aten, name.substr(0, name.size() - 1)));
}

/// Whether a compiled graph may have a node of this kind.
constexpr bool permits_node(std::string_view qualified) {
  constexpr std::string_view of_prim = "prim::";
  return permits(qualified) ||
         (qualified.starts_with(of_prim) && detail::has_word(structure, qualified.substr(of_prim.size())));
}

}  // namespace operators

}  // namespace refine::formats
