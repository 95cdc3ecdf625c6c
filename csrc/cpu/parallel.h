// A loop over independent items, cut into fixed contiguous parts. No item is shared between threads
// and none depends on the cut, so the result has the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace uapfast {

// Below this much memory traffic a part is not worth the start of a thread (some 20 us).
constexpr int64_t kBytesPerThread = int64_t{1} << 19;

// body(begin, end) for parts of 0..items; `bytes` is what one item reads and writes.
// The calling thread takes the last part. `body` must not throw.
template <typename Body>
void ParallelFor(int64_t items, int64_t bytes, int threads, const Body& body) {
  if (items <= 0) return;
  const int64_t useful = std::max<int64_t>(1, items * bytes / kBytesPerThread);
  const int64_t parts = std::clamp<int64_t>(threads, 1, std::min(items, useful));
  std::vector<std::thread> workers;
  int64_t begin = 0;
  for (int64_t part = 0; part + 1 < parts; ++part) {
    const int64_t end = items * (part + 1) / parts;
    try {
      workers.emplace_back([&body, begin, end] { body(begin, end); });
    } catch (const std::exception&) {  // no thread or no memory for one: do the part here
      body(begin, end);
    }
    begin = end;
  }
  body(begin, items);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace uapfast
