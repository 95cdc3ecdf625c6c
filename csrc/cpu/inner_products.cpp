#include "uapfast/inner_products.h"

#include <algorithm>

#include "parallel.h"
#include "products.h"

namespace uapfast::cpu {

Status InnerProducts(const InnerProductsArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.models >= 0 && args.views >= 0 && args.pooled >= 0 && args.size >= 0,
                "inner_products: sizes must be >= 0");
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.models == 0 || args.views == 0) return Status::Ok();
  UAPFAST_CHECK(args.out && (args.size == 0 || (args.rows && (args.pool || args.pooled == 0))),
                "inner_products: buffers must not be null");
  const products::Kernels& kernels = products::For(chosen);
  const int64_t step = args.views * args.size, columns = args.pooled + 1, stride = args.views * columns;
  // one view's pool stays in cache while the rows of all models pass
  ParallelFor(args.views, 4 * (args.models + args.pooled) * args.size, threads, [&](int64_t begin, int64_t end) {
    for (int64_t view = begin; view < end; ++view) {
      const float* pool = args.pool + view * args.pooled * args.size;
      for (int64_t model = 0; model < args.models; model += products::kRows) {
        const int64_t some = std::min<int64_t>(products::kRows, args.models - model);
        const float* rows = args.rows + model * step + view * args.size;
        double* out = args.out + model * stride + view * columns;
        kernels.dots(rows, step, some, pool, args.size, args.pooled, args.size, out, stride);
        for (int64_t i = 0; i < some; ++i) {
          const float* row = rows + i * step;
          kernels.dots(row, 0, 1, row, 0, 1, args.size, out + i * stride + args.pooled, 0);
        }
      }
    }
  });
  return Status::Ok();
}

}  // namespace uapfast::cpu
