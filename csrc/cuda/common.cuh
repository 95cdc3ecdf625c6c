// Shared by the launchers: errors of the runtime as Status, and the device of a call.
#pragma once

#include <cuda_runtime.h>

#include "uapfast/status.h"

namespace uapfast::cuda {

inline Status FromCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status::Ok();
  const char* hint = "";
  if (error == cudaErrorInsufficientDriver) hint = " (no NVIDIA driver, or one older than this build needs)";
  if (error == cudaErrorNoDevice) hint = " (the driver sees no GPU; is CUDA_VISIBLE_DEVICES empty?)";
  return Status::Error(Code::kDevice, "%s: %s: %s%s", what, cudaGetErrorName(error),
                       cudaGetErrorString(error), hint);
}

// Makes `device` current and puts the caller's back: two cudart copies share the driver's context.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && device != before_) error_ = cudaSetDevice(device);
    restore_ = error_ == cudaSuccess && device != before_;
  }
  ~DeviceGuard() {
    if (restore_) (void)cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool restore_ = false;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace uapfast::cuda
