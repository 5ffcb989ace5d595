// A second device: the memory and the kernels are the CPU's, but like a GPU it refuses tensors of both.
// Tests load it to see that what is placed on a device stays there (tests/test_placement.py).

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

namespace {

using namespace at;

const Device kDevice(DeviceType::PrivateUse1, 0);

struct Guard final : public c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::PrivateUse1; }
  Device exchangeDevice(Device device) const override { return device; }
  Device getDevice() const override { return kDevice; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Memory final : Allocator {
  DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    return {data, data, &std::free, kDevice};
  }
  DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(DeviceType::PrivateUse1, &memory);

const DispatchKeySet kKeys(DispatchKey::PrivateUse1);

Tensor empty(SymIntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>,
             std::optional<Device>, std::optional<bool>, std::optional<MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, kKeys,
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride, std::optional<ScalarType> dtype,
                     std::optional<Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           &memory, kKeys, c10::dtype_or_default(dtype));
}

// A tensor of the CPU over the same memory.
Tensor shared(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  auto bytes = static_cast<int64_t>(tensor.storage().nbytes());
  auto whole = at::from_blob(const_cast<void*>(tensor.storage().data()), {bytes}, at::kByte);
  return at::empty({0}, tensor.scalar_type())
      .set_(whole.storage(), tensor.storage_offset(), tensor.sizes(), tensor.strides());
}

Tensor own(const Tensor& tensor) {
  TORCH_CHECK(!tensor.is_cpu(), "Expected all tensors to be on the same device");
  return shared(tensor);
}

std::optional<Tensor> own(const std::optional<Tensor>& tensor) {
  if (!tensor || !tensor->defined()) return std::nullopt;
  return own(*tensor);
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  NoGradGuard guard;
  shared(to).copy_(shared(from));
  return to;
}

const Tensor& resize(const Tensor& tensor, SymIntArrayRef size, std::optional<MemoryFormat>) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  auto bytes = (c10::multiply_integers(sizes) + tensor.storage_offset()) * tensor.element_size();
  auto storage = tensor.storage();
  if (static_cast<int64_t>(storage.nbytes()) < bytes) {
    auto data = memory.allocate(bytes);
    if (storage.nbytes()) std::memcpy(data.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(data));
    storage.set_nbytes(bytes);
  }
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return tensor;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());  // else its strides stay
  return copy_from(from, to, false);
}

Scalar item(const Tensor& tensor) { return shared(tensor).item(); }

Tensor& set(Tensor& tensor, Storage storage, SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset.expect_int());
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  return tensor;
}

Tensor view(const Tensor& tensor, SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor reshape_alias(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor as_strided(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride,
                  std::optional<SymInt> offset) {
  auto start = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), start);
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef output_padding, int64_t groups) {
  NoGradGuard guard;
  return at::convolution(own(x), own(weight), own(bias), stride, padding, dilation, transposed,
                         output_padding, groups)
      .to(kDevice);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  NoGradGuard guard;
  std::vector<int64_t> bias{weight.size(0)};
  auto [a, b, c] = at::convolution_backward(own(gradient), own(x), own(weight), bias, stride, padding,
                                            dilation, transposed, output_padding, groups, wanted);
  auto placed = [](const Tensor& tensor) { return tensor.defined() ? tensor.to(kDevice) : tensor; };
  return {placed(a), placed(b), placed(c)};
}

// The fallback would update copies of the running statistics.
std::tuple<Tensor, Tensor, Tensor> batch_norm(
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& mean, const std::optional<Tensor>& var, bool training, double momentum,
    double eps) {
  NoGradGuard guard;
  auto [a, b, c] = at::native_batch_norm(own(x), own(weight), own(bias), own(mean), own(var), training,
                                         momentum, eps);
  return {a.to(kDevice), b.to(kDevice), c.to(kDevice)};
}

// Everything else is computed on the CPU, unless a tensor that is no scalar lies there already.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  bool ours = false, theirs = false;
  auto look = [&](const Tensor& tensor) {
    if (!tensor.defined()) return;
    ours = ours || !tensor.is_cpu();
    theirs = theirs || (tensor.is_cpu() && tensor.dim() > 0);
  };
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) look(value.toTensor());
    if (value.isTensorList()) for (const Tensor& tensor : value.toTensorVector()) look(tensor);
  }
  TORCH_CHECK(!(ours && theirs), "Expected all tensors to be on the same device, in ", op.schema().name());
  at::native::cpu_fallback(op, stack);
}

struct Hooks final : public PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};
const bool kRegistered = [] {
  static Hooks hooks;
  RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", item);
  library.impl("resize_", resize);
  library.impl("set_.source_Storage_storage_offset", set);
  library.impl("view", view);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("as_strided", as_strided);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
  library.impl("native_batch_norm", batch_norm);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace
