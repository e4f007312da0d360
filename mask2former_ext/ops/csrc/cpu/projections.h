// From reference points, offsets and logits to locations and weights, and back. Included by kernels_impl.h, without a
// guard.

namespace {

// Locations and softmax weights of one row from its reference points, offsets and logits.
template <typename A>
inline void project_row(
    const Problem& problem,
    int64_t coordinates,
    const A* reference,
    const A* offsets,
    const A* logits,
    A* locations,
    A* weights) {
  const int64_t samples = problem.samples();
  A largest = logits[0];
  for (int64_t i = 1; i < samples; ++i) {
    largest = logits[i] > largest ? logits[i] : largest;
  }
  A total = 0;
  for (int64_t i = 0; i < samples; ++i) {
    weights[i] = std::exp(logits[i] - largest);
    total += weights[i];
  }
  for (int64_t i = 0; i < samples; ++i) {
    weights[i] /= total;
  }
  for (const Level& level : problem.levels) {
    A scale[2] = {A(1) / static_cast<A>(level.width), A(1) / static_cast<A>(level.height)};
    if (coordinates == 4) {
      scale[0] = reference[2] * A(0.5) / static_cast<A>(problem.points);
      scale[1] = reference[3] * A(0.5) / static_cast<A>(problem.points);
    }
    for (int64_t i = 0; i < 2 * problem.points; ++i) {
      locations[i] = reference[i & 1] + offsets[i] * scale[i & 1];
    }
    reference += coordinates;
    offsets += 2 * problem.points;
    locations += 2 * problem.points;
  }
}

}  // namespace

template <typename A>
void project(
    const Problem& problem,
    const Projections<A>& projections,
    A* locations,
    A* weights,
    int64_t begin,
    int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first_sample = row * problem.samples();
    project_row(
        problem,
        projections.coordinates,
        projections.reference + row / problem.heads * problem.num_levels() * projections.coordinates,
        projections.offsets + 2 * first_sample,
        projections.logits + first_sample,
        locations + 2 * first_sample,
        weights + first_sample);
  }
}

template <typename A>
void backward_project(
    const Problem& problem,
    const Projections<A>& projections,
    const ProjectionGradients<A>& gradients,
    int64_t begin,
    int64_t end) {
  const int64_t samples = problem.samples(), coordinates = projections.coordinates;
  for (int64_t query = begin; query < end; ++query) {
    const A* reference = projections.reference + query * problem.num_levels() * coordinates;
    A* grad_reference = gradients.grad_reference + query * problem.num_levels() * coordinates;
    for (int64_t i = 0; i < problem.num_levels() * coordinates; ++i) {
      grad_reference[i] = 0;
    }
    for (int64_t row = query * problem.heads; row < (query + 1) * problem.heads; ++row) {
      const A* weights = gradients.weights + row * samples;
      const A* grad_weights = gradients.grad_weights + row * samples;
      A mean = 0;
      for (int64_t i = 0; i < samples; ++i) {
        mean += weights[i] * grad_weights[i];
      }
      for (int64_t i = 0; i < samples; ++i) {
        gradients.grad_logits[row * samples + i] = weights[i] * (grad_weights[i] - mean);
      }
      for (int64_t level = 0; level < problem.num_levels(); ++level) {
        const Level& shape = problem.levels[level];
        const A* box = reference + level * coordinates;
        A* grad_box = grad_reference + level * coordinates;
        const A half_share = A(0.5) / static_cast<A>(problem.points);
        const A scale[2] = {
            coordinates == 4 ? box[2] * half_share : A(1) / static_cast<A>(shape.width),
            coordinates == 4 ? box[3] * half_share : A(1) / static_cast<A>(shape.height)};
        const int64_t first = 2 * (row * samples + level * problem.points);
        for (int64_t i = 0; i < 2 * problem.points; ++i) {
          const A grad = gradients.grad_locations[first + i];
          grad_box[i & 1] += grad;
          if (coordinates == 4) {
            grad_box[2 + (i & 1)] += grad * projections.offsets[first + i] * half_share;
          }
          gradients.grad_offsets[first + i] = grad * scale[i & 1];
        }
      }
    }
  }
}
