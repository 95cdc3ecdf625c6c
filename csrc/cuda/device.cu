#include <cstring>

#include "common.cuh"
#include "uapfast/device.h"

namespace uapfast::cuda {

Status Versions(int* driver, int* runtime) {
  UAPFAST_RETURN_IF_ERROR(FromCuda(cudaDriverGetVersion(driver), "driver version"));
  return FromCuda(cudaRuntimeGetVersion(runtime), "runtime version");
}

Status DeviceCount(int* count) {
  *count = 0;
  return FromCuda(cudaGetDeviceCount(count), "device count");
}

Status GetDeviceInfo(int device, DeviceInfo* info) {
  cudaDeviceProp found;
  UAPFAST_RETURN_IF_ERROR(FromCuda(cudaGetDeviceProperties(&found, device), "device info"));
  std::strncpy(info->name, found.name, sizeof info->name - 1);
  info->name[sizeof info->name - 1] = '\0';
  info->major = found.major;
  info->minor = found.minor;
  info->multiprocessors = found.multiProcessorCount;
  info->memory = static_cast<int64_t>(found.totalGlobalMem);
  info->l2 = found.l2CacheSize;
  info->shared_per_block = static_cast<int>(found.sharedMemPerBlockOptin);
  return Status::Ok();
}

}  // namespace uapfast::cuda
