// Memory that one call leaves to the next.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace {

class Arena {
 public:
  explicit Arena(size_t floats) : floats_(floats) {
    if (lock_.try_lock()) {  // a lock that a fork has left closed is no reason to wait
      for (auto& kept : kept_) {
        if (kept.data != nullptr && kept.floats >= floats) {
          data_ = kept.data;
          floats_ = kept.floats;
          kept.data = nullptr;
          break;
        }
      }
      lock_.unlock();
    }
    if (data_ == nullptr) data_ = allocate(floats_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    if (lock_.try_lock()) {
      auto* smallest = &kept_[0];
      for (auto& kept : kept_) {
        if (kept.data == nullptr || (smallest->data != nullptr && kept.floats < smallest->floats)) smallest = &kept;
      }
      if (smallest->data == nullptr || smallest->floats < floats_) {
        std::swap(smallest->data, data_);
        std::swap(smallest->floats, floats_);
      }
      lock_.unlock();
    }
    std::free(data_);
  }
  float* take(size_t floats) {
    float* piece = data_ + used_;
    used_ += round_up(floats);
    return piece;
  }
  // A piece of memory starts at a cache line, and not a whole number of pages after the last one.
  static size_t round_up(size_t floats) { return (floats + 15) / 16 * 16 + 16; }

 private:
  struct Kept {
    float* data = nullptr;
    size_t floats = 0;
  };
  static float* allocate(size_t floats) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, floats * sizeof(float) + 64) != 0) throw std::bad_alloc();
    return static_cast<float*>(data);
  }
  static std::mutex lock_;
  static Kept kept_[4];
  float* data_ = nullptr;
  size_t floats_;
  size_t used_ = 0;
};

std::mutex Arena::lock_;
Arena::Kept Arena::kept_[4];

}  // namespace
