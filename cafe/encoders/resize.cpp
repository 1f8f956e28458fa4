// Pillow's resize to the bit (Resample.c), of the pixels that a crop keeps: columns, then rows.
//
// Built on the user's machine and called by ctypes (cafe/compiled.py); cafe/encoders/quick_resize.py
// says what it is given. Weights are fixed-point numbers of 22 bits after the point, images have four
// channels, of which the last is padding.

#include <cstdint>

namespace {

constexpr int bits = 22, channels = 4, group = 4, lanes = group * channels;
constexpr int32_t half = 1 << (bits - 1);

uint8_t rounded(int32_t sum) {
    sum >>= bits;
    return static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// GCC makes vectors of these where it would not of loops
typedef int32_t Pixel __attribute__((vector_size(channels * sizeof(int32_t)), may_alias));
typedef int32_t Group __attribute__((vector_size(lanes * sizeof(int32_t)), aligned(4), may_alias));

}  // namespace

extern "C" {

// in (rows, width, 4), wide (width * 4), first (kept), weights (kept, taps, 4) -> out (rows, kept, 4).
// `taps` is a multiple of 4, and no window ends behind a row.
void resize_columns(const uint8_t* in, long rows, long width, int32_t* wide, const int64_t* first,
                    const int32_t* weights, long kept, long taps, uint8_t* out) {
    for (long row = 0; row < rows; ++row, in += width * channels) {
        for (long i = 0; i < width * channels; ++i) wide[i] = in[i];
        for (long x = 0; x < kept; ++x, out += channels) {
            const int32_t* pixel = wide + first[x] * channels;
            const int32_t* weight = weights + x * taps * channels;
            Group sums = {};
            for (long tap = 0; tap < taps; tap += group, pixel += lanes, weight += lanes)
                sums += *reinterpret_cast<const Group*>(pixel) *
                        *reinterpret_cast<const Group*>(weight);
            const Pixel* part = reinterpret_cast<const Pixel*>(&sums);
            Pixel sum = (part[0] + part[1] + part[2] + part[3] + half) >> bits;
            sum = sum < 0 ? 0 : sum;
            sum = sum > 255 ? 255 : sum;
            for (int c = 0; c < channels; ++c) out[c] = static_cast<uint8_t>(sum[c]);
        }
    }
}

// in (rows, width, 4), first (kept), weights (kept, taps) -> out (kept, width, 3)
void resize_rows(const uint8_t* in, long width, const int64_t* first, const int32_t* weights,
                 long kept, long taps, uint8_t* out) {
    constexpr long block = 4 * lanes;  // of numbers whose sums stay in registers
    const long length = width * channels;
    for (long y = 0; y < kept; ++y)
        for (long start = 0; start < length; start += block) {
            const long count = start + block < length ? block : length - start;
            const uint8_t* top = in + first[y] * length + start;
            int32_t sums[block];
            for (long i = 0; i < block; ++i) sums[i] = half;
            if (count == block)  // known to the compiler
                for (long tap = 0; tap < taps; ++tap)
                    for (long i = 0; i < block; ++i)
                        sums[i] += top[tap * length + i] * weights[y * taps + tap];
            else
                for (long tap = 0; tap < taps; ++tap)
                    for (long i = 0; i < count; ++i)
                        sums[i] += top[tap * length + i] * weights[y * taps + tap];
            for (long i = 0; i < count; i += channels)
                for (int c = 0; c < 3; ++c) *out++ = rounded(sums[i + c]);
        }
}

}
