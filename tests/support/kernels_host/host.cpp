// The kernel as a shared library for tests: its structs' layout, and a launch that runs every thread in turn.
#include "letterbox.cu"

namespace {

const std::size_t PICTURE_LAYOUT[] = {
    offsetof(Picture, pixels), offsetof(Picture, chroma), offsetof(Picture, half_step_x), offsetof(Picture, half_step_y),
    offsetof(Picture, pitch), offsetof(Picture, chroma_pitch), offsetof(Picture, format), offsetof(Picture, region),
    offsetof(Picture, place), sizeof(Picture),
};
const std::size_t TARGET_LAYOUT[] = {
    offsetof(Target, rows), offsetof(Target, width), offsetof(Target, height), offsetof(Target, planar),
    offsetof(Target, color), offsetof(Target, type), offsetof(Target, pad), offsetof(Target, scale),
    offsetof(Target, bias), sizeof(Target),
};

}  // namespace

extern "C" const std::size_t* picture_layout() { return PICTURE_LAYOUT; }
extern "C" const std::size_t* target_layout() { return TARGET_LAYOUT; }

// Returns how many bytes were read outside of what each picture may read.
extern "C" long long launch(
    const Picture* pictures, const Target* target, const Readable* allowed, const unsigned* grid, const unsigned* block
) {
    readable = allowed;
    stray_reads = 0;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
                    for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x) letterbox(pictures, target);
    return stray_reads;
}
