// Memory that one call leaves to the next.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <utility>

namespace {

// A piece of memory starts at a cache line, and not a whole number of pages after the last one.
constexpr size_t round_up(size_t floats) { return (floats + 15) / 16 * 16 + 16; }

template <class T>
constexpr size_t floats_of(size_t count) {
  return (count * sizeof(T) + sizeof(float) - 1) / sizeof(float);
}

struct TooLittleRoom : std::exception {};

// Has no memory, and counts what is taken of it: run a constructor that takes from an arena on this one first, and the
// sizes are written down once.
class CountingArena {
 public:
  template <class T = float>
  T* take(size_t count) {
    floats_ += round_up(floats_of<T>(count));
    return nullptr;
  }
  size_t floats() const { return floats_; }

 private:
  size_t floats_ = 0;
};

class Arena {
 public:
  explicit Arena(size_t floats) : room_(floats), floats_(floats) {
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
  template <class T = float>
  T* take(size_t count) {
    size_t floats = round_up(floats_of<T>(count));
    if (floats > room_ - used_) throw TooLittleRoom();
    T* piece = reinterpret_cast<T*>(data_ + used_);
    used_ += floats;
    return piece;
  }

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
  size_t room_;    // that was asked for
  size_t floats_;  // that there are
  size_t used_ = 0;
};

std::mutex Arena::lock_;
Arena::Kept Arena::kept_[4];

}  // namespace
