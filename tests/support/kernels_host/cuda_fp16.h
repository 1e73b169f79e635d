// Stands for CUDA when a kernel is compiled as C++ for the host: one thread after another, strict about what is read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __launch_bounds__(threads)

using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};

inline Index gridDim, blockDim, blockIdx, threadIdx;

// What the thread's picture may read: two ranges of addresses, [first, second).
struct Readable {
    std::uintptr_t begin[2], end[2];
};

inline const Readable* readable;  // one for each picture
inline long long stray_reads;

inline unsigned char __ldg(const unsigned char* address) {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    const Readable& own = readable[blockIdx.z];
    for (int range = 0; range < 2; ++range) {
        if (own.begin[range] <= at && at < own.end[range]) return *address;
    }
    ++stray_reads;
    return 0;
}

inline int __float2int_rn(float value) {
    if (std::isnan(value)) return 0;
    return static_cast<int>(std::clamp(std::nearbyint(static_cast<double>(value)), -2147483648.0, 2147483647.0));
}

struct __half {
    std::uint16_t bits;
};

// To the nearest, ties to even, by arithmetic on doubles, which is exact here.
inline __half __float2half_rn(float value) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double size = std::fabs(static_cast<double>(value));
    if (std::isnan(value)) return {0x7fff};
    if (size >= 65520.0) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    const int exponent = std::max(size > 0.0 ? std::ilogb(size) : -14, -14);
    const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    // The leading bit of a normal number adds one to the exponent that stands here; so does a carry of the rounding.
    return {static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + steps))};
}
