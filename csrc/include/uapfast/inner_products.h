// Inner products of models' features with a pool's, view by view; see uapfast/ops/inner_products.py.
//
// rows float32 [models, views, size], pool float32 [views, pooled, size], out double [models, views, pooled + 1]
// whose last column is each row's own square; contiguous. Sums are of exact products in double, in an order that
// depends on `size` alone: same bits for any number of threads, any level and any company.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast {

struct InnerProductsArgs {
  const float* rows;
  const float* pool;
  double* out;
  int64_t models, views, pooled, size;
};

namespace cpu {
Status InnerProducts(const InnerProductsArgs& args, int threads, int level);
}

}  // namespace uapfast
