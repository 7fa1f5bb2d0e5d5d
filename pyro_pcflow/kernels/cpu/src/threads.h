// Work for several threads.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

// While it lives, this thread takes numbers below the smallest normal one for zero. A gradient that vanishes, such as
// that of a point far from a sensor's edge, ends in such numbers, and arithmetic with them takes ten times as long.
struct Flushing {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  Flushing() { _mm_setcsr(before | 0x8040); }
  ~Flushing() { _mm_setcsr(before); }
#endif
};

// What OpenMP calls to run a function on a team of threads. torch keeps such a team, whose idle members hold their
// cores for milliseconds after each of torch's operations: threads of our own would have to share these cores with them.
using Team = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// What a thread keeps by default: numbers below the smallest normal one.
struct AsItIs {};

// Run a function of each number below `count`, on a team if there is one, or else on threads of its own. Mode is what
// lives on each thread meanwhile.
template <class Mode = Flushing, class Work>
void on_threads(Team team, int count, Work&& work) {
  struct Task {
    Work& work;
    int count;
    std::atomic<int> next{0};  // a team may have fewer members than one asks for
    std::mutex lock{};
    std::exception_ptr failure{};

    static void run(void* data) {
      [[maybe_unused]] Mode mode;
      Task& task = *static_cast<Task*>(data);
      for (int i = task.next++; i < task.count; i = task.next++) {
        try {
          task.work(i);
        } catch (...) {
          std::lock_guard<std::mutex> hold(task.lock);
          task.failure = std::current_exception();
        }
      }
    }
  } task{work, count};
  if (count == 1) {
    Task::run(&task);
  } else if (team != nullptr) {
    team(Task::run, &task, unsigned(count), 0);
  } else {
    std::vector<std::thread> others;
    try {
      for (int i = 1; i < count; ++i) others.emplace_back(Task::run, &task);
    } catch (const std::exception&) {
      // With fewer threads, each has more to do.
    }
    Task::run(&task);
    for (auto& other : others) other.join();
  }
  if (task.failure) std::rethrow_exception(task.failure);
}

}  // namespace
