// What both modules share: addresses come as integers, errors go as Python exceptions.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "uapfast/dtype.h"
#include "uapfast/status.h"

namespace uapfast::bind {

namespace py = pybind11;

template <typename T = void>
T* Pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// "1", "2" or "inf": the value of p as the ops take it.
inline Norm NormOf(double p) {
  if (p == 1) return Norm::kL1;
  if (p == 2) return Norm::kL2;
  if (p > 1e300) return Norm::kLinf;
  throw py::value_error("p must be 1, 2 or inf");
}

inline void Raise(const Status& status) {
  switch (status.code) {
    case Code::kOk:
      return;
    case Code::kInvalidArgument:
      throw py::value_error(status.message);
    case Code::kOutOfMemory:
      PyErr_SetString(PyExc_MemoryError, status.message);
      throw py::error_already_set();
    default: {
      const py::object type = py::module_::import("uapfast.errors").attr("NativeUnavailable");
      PyErr_SetString(type.ptr(), status.message);
      throw py::error_already_set();
    }
  }
}

// Run `entry` without the GIL and raise what it reports.
template <typename Entry>
void Call(const Entry& entry) {
  Status status;
  {
    py::gil_scoped_release release;
    status = entry();
  }
  Raise(status);
}

}  // namespace uapfast::bind
