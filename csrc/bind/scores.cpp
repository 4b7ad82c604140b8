// SPDX-License-Identifier: Apache-2.0
#include "scores.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace {

template <class T>
using Vector = nb::ndarray<nb::numpy, T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<T> span_of(const Vector<T>& array) {
  return {array.data(), array.shape(0)};
}

void require(bool fits, const std::string& message) {
  if (!fits) throw std::invalid_argument(message);
}

/// A model's arrays, held alive, and the core's view of them.
struct BoundModel {
  Matrix<const std::int8_t> table;
  Matrix<const std::int16_t> heads;
  Vector<const std::int32_t> bias;
  Vector<const float> scale;
  unsigned orders;

  BoundModel(Matrix<const std::int8_t> table_, Matrix<const std::int16_t> heads_,
             Vector<const std::int32_t> bias_, Vector<const float> scale_, unsigned orders_)
      : table(table_), heads(heads_), bias(bias_), scale(scale_), orders(orders_) {
    const std::size_t buckets = table.shape(0);
    const std::size_t dim = table.shape(1);
    require(buckets > 0 && (buckets & (buckets - 1)) == 0 && buckets <= std::size_t{1} << 31,
            "table must have a power of two rows, at most 2**31");
    require(dim > 0 && dim % 16 == 0, "table must have a multiple of 16 columns");
    require(heads.shape(1) == dim && bias.shape(0) == heads.shape(0) &&
                scale.shape(0) == heads.shape(0),
            "heads must be [H, D], bias and scale [H]");
    require(orders != 0 && (orders & ~0b1110u) == 0, "orders must be a set of bits 1, 2, 3");
  }

  moot::NgramModel view() const {
    return {table.data(),  table.shape(0),   table.shape(1), heads.data(),
            span_of(bias), span_of(scale), orders};
  }
};

/// The agents' arrays, held alive, and the core's view of them.
struct BoundAgents {
  Vector<const std::int32_t> kind, first_head, num_states;
  Matrix<const float> edges, memory;
  Vector<const float> theta;

  BoundAgents(Vector<const std::int32_t> kind_, Vector<const std::int32_t> first_head_,
              Vector<const std::int32_t> num_states_, Matrix<const float> edges_,
              Matrix<const float> memory_, Vector<const float> theta_)
      : kind(kind_), first_head(first_head_), num_states(num_states_), edges(edges_),
        memory(memory_), theta(theta_) {
    const std::size_t agents = memory.shape(0);
    require(memory.shape(1) > 0, "memory must have at least one column");
    require(kind.shape(0) == agents && first_head.shape(0) == agents &&
                num_states.shape(0) == agents && theta.shape(0) == agents,
            "kind, first_head, num_states and theta must be [A]");
    require(edges.shape(0) == agents && edges.shape(1) + 1 == memory.shape(1),
            "edges must be [A, S-1], memory [A, S]");
  }

  moot::AgentTables view() const {
    return {span_of(kind), span_of(first_head), span_of(num_states), edges.data(),
            memory.data(), span_of(theta),      memory.shape(1)};
  }
};

/// The arrays that results are written to.
struct BoundScores {
  Matrix<float> values;
  Matrix<std::int32_t> states;
  Matrix<float> votes;
  Vector<float> total;

  bool fits(std::size_t documents, std::size_t heads, std::size_t agents) const {
    return values.shape(0) == documents && values.shape(1) == heads &&
           states.shape(0) == documents && states.shape(1) == agents &&
           votes.shape(0) == documents && votes.shape(1) == agents && total.shape(0) == documents;
  }
};

using Stored = std::optional<Matrix<const std::int32_t>>;

template <class Token>
void run(Vector<const Token> tokens, Vector<const std::int64_t> cu_seqlens,
         const BoundModel& model, const BoundAgents& agents, const Stored& stored,
         BoundScores& out, std::size_t start, std::size_t stop) {
  require(cu_seqlens.shape(0) > 0, "cu_seqlens must have at least one entry");
  const std::size_t documents = cu_seqlens.shape(0) - 1;
  const std::size_t num_agents = agents.memory.shape(0);
  require(out.fits(documents, model.heads.shape(0), num_agents), "out does not fit the inputs");
  require(!stored || (stored->shape(0) == documents && stored->shape(1) == num_agents),
          "stored_states must be [n, A]");
  const std::int32_t* states = stored ? stored->data() : nullptr;
  // An empty array may have no address; the core takes a null pointer for "no stored states".
  static constexpr std::int32_t kNone = 0;
  if (stored && states == nullptr) states = &kNone;
  const moot::ScoreOutput output{out.values.data(), out.states.data(), out.votes.data(),
                                 out.total.data()};
  nb::gil_scoped_release unlocked;
  moot::document_scores<Token>(span_of(tokens), span_of(cu_seqlens), model.view(), agents.view(),
                               states, output, start, stop);
}

template <class Token>
void bind_run(nb::module_& m) {
  using namespace nb::literals;
  m.def("document_scores", &run<Token>, "tokens"_a.noconvert(), "cu_seqlens"_a.noconvert(),
        "model"_a, "agents"_a, "stored_states"_a.none().noconvert(), "out"_a, "start"_a, "stop"_a,
        "Score documents [start, stop) into out, without the GIL, in this thread.");
}

}  // namespace

void bind_scores(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<BoundModel>(m, "NgramModel", "Views of a model's arrays; orders is a set of bits.")
      .def(nb::init<Matrix<const std::int8_t>, Matrix<const std::int16_t>,
                    Vector<const std::int32_t>, Vector<const float>, unsigned>(),
           "table"_a.noconvert(), "heads"_a.noconvert(), "bias"_a.noconvert(),
           "scale"_a.noconvert(), "orders"_a);
  nb::class_<BoundAgents>(m, "AgentTables", "Views of the agents' arrays.")
      .def(nb::init<Vector<const std::int32_t>, Vector<const std::int32_t>,
                    Vector<const std::int32_t>, Matrix<const float>, Matrix<const float>,
                    Vector<const float>>(),
           "kind"_a.noconvert(), "first_head"_a.noconvert(), "num_states"_a.noconvert(),
           "edges"_a.noconvert(), "memory"_a.noconvert(), "theta"_a.noconvert());
  nb::class_<BoundScores>(m, "ScoreOutput", "Views of the arrays that results are written to.")
      .def(nb::init<Matrix<float>, Matrix<std::int32_t>, Matrix<float>, Vector<float>>(),
           "values"_a.noconvert(), "states"_a.noconvert(), "votes"_a.noconvert(),
           "total"_a.noconvert());
  bind_run<std::uint16_t>(m);
  bind_run<std::int32_t>(m);
  bind_run<std::int64_t>(m);
}
