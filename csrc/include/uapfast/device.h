// What the CUDA driver says. Works without one: then the Status says what is missing.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast::cuda {

struct DeviceInfo {
  char name[256];
  int major, minor;  // compute capability
  int multiprocessors;
  int64_t memory, l2;    // bytes
  int shared_per_block;  // bytes a block can have at most
};

// Versions as CUDA writes them, 13000 for 13.0. The driver's is 0 where there is none.
Status Versions(int* driver, int* runtime);
// Devices that this process can use. An error names what is missing (driver, device).
Status DeviceCount(int* count);
Status GetDeviceInfo(int device, DeviceInfo* info);

}  // namespace uapfast::cuda
