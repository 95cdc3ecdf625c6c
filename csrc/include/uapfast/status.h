// What every entry of the core returns: a code and a bounded message. No exception and no std type
// crosses the boundary, so that another binding can replace csrc/bind without touching the rest.
#pragma once

#include <cstdarg>
#include <cstdio>

namespace uapfast {

enum class Code : int {
  kOk = 0,
  kInvalidArgument = 1,  // the caller's fault: a size, a value, a null pointer
  kUnavailable = 2,      // this build or machine lacks what was asked for
  kOutOfMemory = 3,
  kDevice = 4,  // the CUDA runtime reported an error
};

struct Status {
  Code code = Code::kOk;
  char message[256] = {0};

  bool ok() const { return code == Code::kOk; }

  static Status Ok() { return Status{}; }

#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  static Status Error(Code code, const char* format, ...) {
    Status status;
    status.code = code;
    va_list args;
    va_start(args, format);
    std::vsnprintf(status.message, sizeof status.message, format, args);
    va_end(args);
    return status;
  }
};

}  // namespace uapfast

// Return an error from a function that returns Status, if `condition` does not hold.
#define UAPFAST_CHECK(condition, ...)                                                  \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      return ::uapfast::Status::Error(::uapfast::Code::kInvalidArgument, __VA_ARGS__); \
    }                                                                                  \
  } while (0)

#define UAPFAST_RETURN_IF_ERROR(expression)            \
  do {                                                 \
    ::uapfast::Status uapfast_status_ = (expression);  \
    if (!uapfast_status_.ok()) return uapfast_status_; \
  } while (0)
