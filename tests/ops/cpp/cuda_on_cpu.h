// Enough of CUDA to run a kernel on the CPU, lane by lane: what it computes, what it reads and writes, and whether the
// lanes that exchange numbers all do so. Each lane of a warp has a stack of its own and runs up to its next shuffle, then
// the next lane does. Include this before the kernels; nothing else of CUDA may be included beside it.

#pragma once

#include "check.h"

#include <ATen/ATen.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900

namespace cuda_on_cpu {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

class Warp {
 public:
  // Runs ``lane_program`` once for each lane of the warp, whose first thread of the block is ``first``. Returns whether in
  // every shuffle all lanes of the mask took part.
  bool run(unsigned first, const std::function<void()>& lane_program, Index& thread) {
    program_ = &lane_program;
    bool together = true;
    for (Lane& lane : lanes_) {
      lane.start(*this);
    }
    for (int left = kWarp; left > 0;) {
      for (current_ = 0; current_ < kWarp; ++current_) {
        if (!lanes_[current_].done) {
          thread.x = first + current_;
          resume();
          left -= lanes_[current_].done;
        }
      }
      together &= have_met();
    }
    return together;
  }

  // The number that lane ``source`` brings to the same shuffle; ``line`` tells one shuffle of the program from another.
  template <typename T>
  T exchange(unsigned mask, T number, int source, int line) {
    const int slot = offer(mask, number, line);
    if (source < 0 || source >= kWarp || !(mask >> source & 1)) {
      check::that(false, "a shuffle reads lane " + std::to_string(source) + ", which is not in its mask");
      return number;
    }
    T result;
    std::memcpy(&result, &lanes_[source].slots[slot], sizeof(T));
    return result;
  }

  // Whether any lane of the mask brings true to the same vote.
  bool any(unsigned mask, bool condition, int line) {
    const int slot = offer(mask, uint64_t{condition}, line);
    bool result = false;
    for (int i = 0; i < kWarp; ++i) {
      result |= (mask >> i & 1) && lanes_[i].slots[slot];
    }
    return result;
  }

  int current() const {
    return current_;
  }

 private:
  struct Lane {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    uint64_t slots[2];
    int64_t shuffles;
    unsigned mask;
    int line;
    bool done;
    void* fake_stack;

    void start(Warp& warp) {
      shuffles = 0;
      mask = 0;
      done = false;
      fake_stack = nullptr;
      getcontext(&context);
      context.uc_stack.ss_sp = stack.get();
      context.uc_stack.ss_size = kStack;
      context.uc_link = nullptr;
      const auto address = reinterpret_cast<uintptr_t>(&warp);
      makecontext(
          &context, reinterpret_cast<void (*)()>(&Warp::enter), 2, static_cast<unsigned>(address >> 32),
          static_cast<unsigned>(address));
    }
  };

  static void enter(unsigned high, unsigned low) {
    Warp& warp = *reinterpret_cast<Warp*>(static_cast<uintptr_t>(high) << 32 | low);
    finish_switch(nullptr, &warp.scheduler_stack_, &warp.scheduler_stack_size_);
    (*warp.program_)();
    warp.lanes_[warp.current_].done = true;
    start_switch(nullptr, warp.scheduler_stack_, warp.scheduler_stack_size_);
    setcontext(&warp.scheduler_);
  }

  // Puts a number down for other lanes and waits until all have come to their shuffles. Returns the slot that the numbers
  // lie in; the next ones go to the other.
  template <typename T>
  int offer(unsigned mask, T number, int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Lane& mine = lanes_[current_];
    const int slot = mine.shuffles % 2;
    std::memcpy(&mine.slots[slot], &number, sizeof(T));
    mine.mask = mask;
    mine.line = line;
    ++mine.shuffles;
    wait();
    return slot;
  }

  void resume() {
    Lane& lane = lanes_[current_];
    void* fake_stack = nullptr;
    start_switch(&fake_stack, lane.stack.get(), kStack);
    swapcontext(&scheduler_, &lane.context);
    finish_switch(fake_stack, nullptr, nullptr);
  }

  void wait() {
    Lane& lane = lanes_[current_];
    start_switch(&lane.fake_stack, scheduler_stack_, scheduler_stack_size_);
    swapcontext(&lane.context, &scheduler_);
    finish_switch(lane.fake_stack, &scheduler_stack_, &scheduler_stack_size_);
  }

  // Every lane that waits names itself in its mask, and all that it names wait at the same shuffle, with the same mask.
  bool have_met() const {
    bool together = true;
    for (int i = 0; i < kWarp; ++i) {
      const Lane& lane = lanes_[i];
      for (int other = 0; !lane.done && other < kWarp; ++other) {
        const Lane& its = lanes_[other];
        const bool same =
            !its.done && its.mask == lane.mask && its.line == lane.line && its.shuffles == lane.shuffles;
        together &= same || !(lane.mask >> other & 1);
      }
      together &= lane.done || (lane.mask >> i & 1);
    }
    return together;
  }

  // What the address sanitizer wants to know about stacks.
  static void start_switch(
      [[maybe_unused]] void** saved, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(saved, stack, size);
#endif
  }
  static void finish_switch(
      [[maybe_unused]] void* saved, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(saved, stack, size);
#endif
  }

  Lane lanes_[kWarp];
  ucontext_t scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_size_ = 0;
  const std::function<void()>* program_ = nullptr;
  int current_ = 0;
};

inline Warp warp;

}  // namespace cuda_on_cpu

inline cuda_on_cpu::Index threadIdx, blockIdx, gridDim;

namespace cuda_on_cpu {

// kernel<<<grid, threads>>>(arguments...), where grid has x, y and z
template <typename Kernel, typename Grid, typename... Arguments>
void launch(Kernel kernel, const Grid& grid, unsigned threads, const Arguments&... arguments) {
  bool together = true;
  gridDim = {grid.x, grid.y, grid.z};
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        for (unsigned first = 0; first < threads; first += kWarp) {
          together &= warp.run(first, [&] { kernel(arguments...); }, threadIdx);
        }
      }
    }
  }
  check::that(together, "a shuffle whose mask names lanes that do not take part in it");
}

}  // namespace cuda_on_cpu

using std::min;

template <typename T>
T __shfl_sync(unsigned mask, T number, int lane, int width, int line = __builtin_LINE()) {
  const int first = cuda_on_cpu::warp.current() / width * width;
  return cuda_on_cpu::warp.exchange(mask, number, first + lane % width, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T number, int bits, int width, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::warp.current();
  if (bits >= width) {
    check::that(false, "a shuffle leaves its group");
  }
  return cuda_on_cpu::warp.exchange(mask, number, lane ^ bits, line);
}

inline bool __any_sync(unsigned mask, bool condition, int line = __builtin_LINE()) {
  return cuda_on_cpu::warp.any(mask, condition, line);
}

template <typename T>
void atomicAdd(T* address, T number) {
  *address += number;
}

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

inline void atomicAdd(float4* address, float4 number) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(float4) != 0) {
    check::that(false, "an addition of 16 bytes is not aligned");
  }
  address->x += number.x;
  address->y += number.y;
  address->z += number.z;
  address->w += number.w;
}

inline long long __double2ll_rn(double number) {
  return std::llrint(number);
}
