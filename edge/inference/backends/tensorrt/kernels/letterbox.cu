// The pictures of a batch → the engine's input tensor, in one launch: colours converted, resized, put in place, normalised.
//
// A picture's `region` goes to its `place` in the input; whatever the place leaves free becomes the pad level. Resizing
// is bilinear between pixel centres and stops at the region's edges. Weights have 11 bits, and the mixed value is rounded
// to a whole grey level, halves up. All of it is integer arithmetic, then one fused multiply-add, so every processor
// gives the same bytes. Two columns of YUYV and NV12, and two rows of NV12, share one U and one V; the last of an odd
// number has them to itself. Each pixel is converted before it is mixed with others.
//
// Neighbouring threads make neighbouring pixels of a row, so that what a warp reads and writes lies together; each thread
// goes down ROWS rows with what it has computed for its column. `edge/inference/backends/tensorrt/letterbox_kernel.py` mirrors the structs.

#include <cuda_fp16.h>

typedef unsigned char Byte;

enum Format { BGR, RGB, GRAY, YUYV, NV12 };
enum Color { TO_BGR, TO_RGB, TO_GRAY };
enum Type { FLOAT32, FLOAT16, UINT8, INT8 };

constexpr int ROWS = 4;  // that one thread makes
constexpr int WEIGHT_BITS = 11;
constexpr int WEIGHT_ONE = 1 << WEIGHT_BITS;
constexpr int POSITION_BITS = 32;  // of the fraction of a source pixel

struct Box {
    int x, y, width, height;
};

struct Picture {
    const Byte* pixels;  // the first row; of NV12, of the brightness
    const Byte* chroma;  // NV12 only: the first row of U and V in turn
    long long half_step_x, half_step_y;  // half the source pixels between two of the input, in 2^-32
    int pitch, chroma_pitch;  // bytes from one row to the next
    int format;
    Box region;  // of the picture
    Box place;  // in the input
};

struct Target {
    void* rows;  // one for each picture, one after another: C×H×W if planar, else H×W×C
    int width, height;
    int planar;
    int color;
    int type;
    int pad;  // grey level
    float scale[3], bias[3];  // per channel of the input: x = level · scale + bias
};

struct Bgr {
    int b, g, r;
};

// What an output pixel reads along one axis: two neighbours, and the weight of the second.
struct Tap {
    int first, second, weight;
};

__device__ Tap tap_at(int position, long long half_step, int size) {
    const long long centre = (2LL * position + 1) * half_step - (1LL << (POSITION_BITS - 1));
    const long long rounded = centre + (1LL << (POSITION_BITS - WEIGHT_BITS - 1));
    if (rounded < 0) return {0, 0, 0};
    const int first = static_cast<int>(rounded >> POSITION_BITS);
    if (first >= size - 1) return {size - 1, size - 1, 0};
    const int weight = static_cast<int>(rounded >> (POSITION_BITS - WEIGHT_BITS)) & (WEIGHT_ONE - 1);
    // A neighbour without weight is not read: where whole rows have none, this spares their memory traffic.
    return {first, first + (weight > 0), weight};
}

// Rows of one picture; only NV12 has the second.
struct Line {
    const Byte* pixels;
    const Byte* chroma;
};

template <int FORMAT>
__device__ Line line_at(const Picture& picture, int y) {
    const Byte* pixels = picture.pixels + static_cast<long long>(y) * picture.pitch;
    if constexpr (FORMAT == NV12) {
        return {pixels, picture.chroma + static_cast<long long>(y / 2) * picture.chroma_pitch};
    }
    return {pixels, nullptr};
}

__device__ int clamped(int level) { return min(max(level, 0), 255); }

// BT.601 of limited range; the factors are 1.164, 2.018, 0.391, 0.813 and 1.596 in 2^-20.
__device__ Bgr from_yuv(int y, int u, int v) {
    const int brightness = max(y - 16, 0) * 1220542 + (1 << 19);
    u -= 128;
    v -= 128;
    return {
        clamped((brightness + 2116026 * u) >> 20),
        clamped((brightness - 409993 * u - 852492 * v) >> 20),
        clamped((brightness + 1673527 * v) >> 20),
    };
}

template <int FORMAT>
__device__ Bgr pixel_at(const Line& line, int x) {
    if constexpr (FORMAT == BGR || FORMAT == RGB) {
        const Byte* pixel = line.pixels + 3 * x;
        const int first = __ldg(pixel), g = __ldg(pixel + 1), last = __ldg(pixel + 2);
        return FORMAT == BGR ? Bgr{first, g, last} : Bgr{last, g, first};
    } else if constexpr (FORMAT == GRAY) {
        const int level = __ldg(line.pixels + x);
        return {level, level, level};
    } else if constexpr (FORMAT == YUYV) {
        const Byte* pair = line.pixels + x / 2 * 4;
        return from_yuv(__ldg(line.pixels + 2 * x), __ldg(pair + 1), __ldg(pair + 3));
    } else {
        const Byte* pair = line.chroma + x / 2 * 2;
        return from_yuv(__ldg(line.pixels + x), __ldg(pair), __ldg(pair + 1));
    }
}

__device__ int mixed(int upper_left, int upper_right, int lower_left, int lower_right, int across, int down) {
    const int upper = upper_left * (WEIGHT_ONE - across) + upper_right * across;
    const int lower = lower_left * (WEIGHT_ONE - across) + lower_right * across;
    const int half = 1 << (2 * WEIGHT_BITS - 1);
    return (upper * (WEIGHT_ONE - down) + lower * down + half) >> (2 * WEIGHT_BITS);
}

template <int FORMAT>
__device__ Bgr resized(const Picture& picture, const Tap& column, const Tap& row) {
    const Line upper = line_at<FORMAT>(picture, picture.region.y + row.first);
    const Line lower = line_at<FORMAT>(picture, picture.region.y + row.second);
    const int left = picture.region.x + column.first, right = picture.region.x + column.second;
    const Bgr a = pixel_at<FORMAT>(upper, left), b = pixel_at<FORMAT>(upper, right);
    const Bgr c = pixel_at<FORMAT>(lower, left), d = pixel_at<FORMAT>(lower, right);
    return {
        mixed(a.b, b.b, c.b, d.b, column.weight, row.weight),
        mixed(a.g, b.g, c.g, d.g, column.weight, row.weight),
        mixed(a.r, b.r, c.r, d.r, column.weight, row.weight),
    };
}

// Weights 0.114, 0.587 and 0.299 in 2^-15.
__device__ int gray_of(const Bgr& pixel) {
    return (3735 * pixel.b + 19235 * pixel.g + 9798 * pixel.r + (1 << 14)) >> 15;
}

__device__ void put(float* to, float value) { *to = value; }
__device__ void put(__half* to, float value) { *to = __float2half_rn(value); }
__device__ void put(Byte* to, float value) { *to = static_cast<Byte>(clamped(__float2int_rn(value))); }
__device__ void put(signed char* to, float value) {
    *to = static_cast<signed char>(min(max(__float2int_rn(value), -128), 127));
}

template <typename Value>
__device__ void write_level(const Target& target, size_t index, int channel, int level) {
    const float value = fmaf(static_cast<float>(level), target.scale[channel], target.bias[channel]);
    put(static_cast<Value*>(target.rows) + index, value);
}

template <typename Value>
__device__ void write_pixel(const Target& target, int x, int y, const Bgr& pixel) {
    const size_t plane = static_cast<size_t>(target.width) * target.height;
    const size_t at = static_cast<size_t>(y) * target.width + x;
    if (target.color == TO_GRAY) {
        write_level<Value>(target, blockIdx.z * plane + at, 0, gray_of(pixel));
        return;
    }
    const size_t first = target.planar ? blockIdx.z * plane * 3 + at : (blockIdx.z * plane + at) * 3;
    const size_t next = target.planar ? plane : 1;
    const bool rgb = target.color == TO_RGB;
    write_level<Value>(target, first, 0, rgb ? pixel.r : pixel.b);
    write_level<Value>(target, first + next, 1, pixel.g);
    write_level<Value>(target, first + 2 * next, 2, rgb ? pixel.b : pixel.r);
}

template <typename Value, int FORMAT>
__device__ void draw(const Picture& picture, const Target& target) {
    const Box& place = picture.place;
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= target.width) return;
    const bool beside = x < place.x || x >= place.x + place.width;
    const Tap column = tap_at(x - place.x, picture.half_step_x, picture.region.width);
    for (int step = 0; step < ROWS; ++step) {
        const int y = (blockIdx.y * ROWS + step) * blockDim.y + threadIdx.y;
        if (y >= target.height) return;
        if (beside || y < place.y || y >= place.y + place.height) {
            write_pixel<Value>(target, x, y, {target.pad, target.pad, target.pad});
        } else {
            const Tap row = tap_at(y - place.y, picture.half_step_y, picture.region.height);
            write_pixel<Value>(target, x, y, resized<FORMAT>(picture, column, row));
        }
    }
}

template <typename Value>
__device__ void draw_any(const Picture& picture, const Target& target) {
    switch (picture.format) {
        case BGR: draw<Value, BGR>(picture, target); break;
        case RGB: draw<Value, RGB>(picture, target); break;
        case GRAY: draw<Value, GRAY>(picture, target); break;
        case YUYV: draw<Value, YUYV>(picture, target); break;
        case NV12: draw<Value, NV12>(picture, target); break;
    }
}

// Grid: x and y over the input's columns and rows, z over the pictures; block: 32 × 8 threads.
extern "C" __global__ void __launch_bounds__(256) letterbox(const Picture* pictures, const Target* targets) {
    // Copies, since writing bytes could otherwise change them and have them read again.
    const Picture picture = pictures[blockIdx.z];
    const Target target = *targets;
    switch (target.type) {
        case FLOAT32: draw_any<float>(picture, target); break;
        case FLOAT16: draw_any<__half>(picture, target); break;
        case UINT8: draw_any<Byte>(picture, target); break;
        case INT8: draw_any<signed char>(picture, target); break;
    }
}
