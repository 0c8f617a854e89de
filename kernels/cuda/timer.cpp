// SPDX-License-Identifier: Apache-2.0
// Marks on a GPU: events in the stream's order.
#include "kernels/timer.hpp"

#include "kernels/cuda/device.hpp"

namespace tessera {
namespace {

class CudaTimer final : public Timer {
public:
    explicit CudaTimer(const CudaStream& stream) : stream_(stream) {}
    CudaTimer(const CudaTimer&) = delete;
    CudaTimer& operator=(const CudaTimer&) = delete;
    ~CudaTimer() override {
        for (cudaEvent_t event : events_)
            cudaEventDestroy(event);
    }

    void mark() override {
        if (used_ == events_.size()) {
            events_.push_back(nullptr);
            cuda::check(cudaEventCreate(&events_.back()), "cudaEventCreate");
        }
        cuda::check(cudaEventRecord(events_[used_++], stream_.state().stream), "cudaEventRecord");
    }

    std::vector<double> take() override {
        stream_.wait();
        std::vector<double> seconds;
        for (std::size_t i = 1; i < used_; ++i) {
            float milliseconds = 0;
            cuda::check(cudaEventElapsedTime(&milliseconds, events_[i - 1], events_[i]), "cudaEventElapsedTime");
            seconds.push_back(1e-3 * static_cast<double>(milliseconds));
        }
        used_ = 0;
        return seconds;
    }

private:
    const CudaStream& stream_;
    std::vector<cudaEvent_t> events_; // made once, used again after take()
    std::size_t used_ = 0;
};

} // namespace

std::unique_ptr<Timer> make_timer(const CudaStream& stream) { return std::make_unique<CudaTimer>(stream); }

} // namespace tessera
