// Schemas of the operators. Kernels register themselves for their dispatch keys in cpu/ and cuda/; autograd, fake kernels
// and autocast are registered in Python (registration.py).

#include <Python.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>

namespace mask2former_ext {

namespace {

// What this library was built with: lines of "key=value".
std::string build_info() {
  std::string info = "torch=" TORCH_VERSION "\n";
#ifdef __VERSION__
  info += "compiler=" __VERSION__ "\n";
#endif
#ifdef MASK2FORMER_EXT_CUDA_ARCHITECTURES
  info += "cuda=" MASK2FORMER_EXT_CUDA_VERSION "\n";
  info += "cuda_architectures=" MASK2FORMER_EXT_CUDA_ARCHITECTURES "\n";
#endif
  return info;
}

}  // namespace

}  // namespace mask2former_ext

TORCH_LIBRARY(mask2former_ext, library) {
  library.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
  library.def(
      "ms_deform_attn_fused(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor reference_points, "
      "Tensor sampling_offsets, Tensor attention_logits) -> Tensor");
  library.def(
      "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "panoptic_merge(Tensor probability, Tensor(a!) best, Tensor(b!) owner, Tensor score, int rank) -> Tensor");
  library.def("build_info() -> str", &mask2former_ext::build_info);
}

// An empty module: importing it loads the library, whose registrations do the rest.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
