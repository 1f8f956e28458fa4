// Matrix products of bfloat16 in a processor's tiles (Intel's AMX), and how operands are packed.

#pragma once

#include "kernels.cpp"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// A tile has 16 lines of 64 bytes. A left operand's line is a row, of 32 neighbours along k; that of
// a right one is two neighbours along k, side by side for 16 columns; that of sums is a row of 16
// floats. Products are taken in blocks of two by two tiles.
constexpr long LINES = 16, BLOCK = 32, TILE = LINES * BLOCK;

inline long padded(long count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

// Numbers from row to row: at powers of two, rows would share too few places of a core's cache.
inline long pitch(long count) { return padded(count) + BLOCK; }

// Memory for one matrix, kept from call to call.
bfloat16 *room(int place, long count) {
    struct alignas(64) Line {
        bfloat16 numbers[BLOCK];
    };
    static thread_local std::vector<Line> places[16];
    auto &lines = places[place];
    if (static_cast<long>(lines.size()) * BLOCK < count) lines.resize(count / BLOCK + 1);
    return lines.data()->numbers;
}

inline float *floats(int place, long count) {
    return reinterpret_cast<float *>(room(place, 2 * count));
}

// The shape of tiles, for as long as this lives.
struct Configured {
    alignas(64) unsigned char before[64], ours[64] = {1};

    Configured() {
        for (int tile = 0; tile < 8; ++tile) {
            ours[16 + 2 * tile] = 64;  // bytes of a line
            ours[48 + tile] = LINES;
        }
        _tile_storeconfig(before);
        _tile_loadconfig(ours);
    }
    ~Configured() { _tile_loadconfig(before); }
};

// Where the tiles of a left operand lie: their distances down the rows and along k, and the lines'.
struct Left {
    const bfloat16 *data;
    long down, along, line;

    const bfloat16 *at(long row, long k) const {  // k a multiple of 32
        return data + row / LINES * down + k / BLOCK * along + row % LINES * line;
    }
};

inline Left plain(const bfloat16 *data, long pitch) { return {data, LINES * pitch, BLOCK, pitch}; }

inline Left packed(const bfloat16 *data, long ks) {
    return {data, padded(ks) / BLOCK * TILE, TILE, BLOCK};
}

// Transpose 16 lines of 16 pairs: at each step swap the halves off the diagonal.
inline void transpose(__m512i *lines) {
    const __m512i c = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
    for (int step = 1; step < LINES; step *= 2) {  // an index from 16 up is of the second line
        const __mmask16 odd = _mm512_test_epi32_mask(c, _mm512_set1_epi32(step));
        const __m512i upper = _mm512_mask_add_epi32(c, odd, c, _mm512_set1_epi32(16 - step));
        const __m512i lower = _mm512_mask_add_epi32(
            _mm512_add_epi32(c, _mm512_set1_epi32(step)), odd, c, _mm512_set1_epi32(16));
#pragma GCC unroll 16
        for (int i = 0; i < LINES; ++i) {
            if (i & step) continue;
            const __m512i one = lines[i], two = lines[i + step];
            lines[i] = _mm512_permutex2var_epi32(one, upper, two);
            lines[i + step] = _mm512_permutex2var_epi32(one, lower, two);
        }
    }
}

// The first so many bits.
inline std::uint32_t first(long count) {
    return count >= BLOCK ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

// Put a matrix into tiles, padded with zeros: a left operand's, or a `right` one's by its columns.
// A row's numbers are neighbours if `along_k`, and those of one k otherwise; others lie `pitch`
// apart. The tiles of the next 16 rows begin `apart` from these.
template <bool right, bool along_k>
void pack(bfloat16 *to, const bfloat16 *from, long pitch, long rows, long ks, long apart) {
    for (long row = 0; row < padded(rows); row += LINES, to += apart) {
        const auto few = static_cast<__mmask16>(first(rows - row));
        bfloat16 *line = to;
        for (long k = 0; k < padded(ks); k += BLOCK) {
            __m512i lines[LINES];
#pragma GCC unroll 16
            for (long i = 0; i < LINES; ++i) {
                if (along_k) {
                    const auto some = row + i < rows ? first(ks - k) : 0u;
                    lines[i] = _mm512_maskz_loadu_epi16(some, from + (row + i) * pitch + k);
                    continue;
                }
                const long left = ks - k - 2 * i;
                const bfloat16 *pair = from + (k + 2 * i) * pitch + row;
                const auto low = _mm256_maskz_loadu_epi16(left > 0 ? few : 0, pair);
                const auto high = _mm256_maskz_loadu_epi16(left > 1 ? few : 0, pair + pitch);
                lines[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
            }
            if (along_k == right) transpose(lines);
#pragma GCC unroll 16
            for (long i = 0; i < LINES; ++i, line += BLOCK) _mm512_store_si512(line, lines[i]);
        }
    }
}

template <bool right, bool along_k>
void pack(bfloat16 *to, const bfloat16 *from, long pitch, long rows, long ks) {
    pack<right, along_k>(to, from, pitch, rows, ks, padded(ks) / BLOCK * TILE);
}

// A product; `finish` takes a row, a column, and the sums of 32 columns from there.
template <typename Finish>
void multiply(Left left, const bfloat16 *right, long rows, long columns, long ks, Finish finish) {
    alignas(64) float sums[BLOCK * BLOCK];
    const long deep = padded(ks) / BLOCK * TILE, bytes = 2 * left.line;
    for (long column = 0; column < columns; column += BLOCK) {
        for (long row = 0; row < rows; row += BLOCK) {
            const bfloat16 *upper = left.at(row, 0), *lower = left.at(row + LINES, 0);
            const bfloat16 *one = right + column / LINES * deep, *two = one + deep;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (const bfloat16 *end = one + deep; one < end; one += TILE, two += TILE) {
                _tile_loadd(4, upper, bytes);
                _tile_loadd(5, lower, bytes);
                _tile_stream_loadd(6, one, 64);  // the left ones are needed again sooner
                _tile_stream_loadd(7, two, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                upper += left.along;
                lower += left.along;
            }
            _tile_stored(0, sums, 128);
            _tile_stored(1, sums + LINES, 128);
            _tile_stored(2, sums + TILE, 128);
            _tile_stored(3, sums + TILE + LINES, 128);
            const float *line = sums;
            for (long end = std::min(row + BLOCK, rows), i = row; i < end; ++i, line += BLOCK) {
                finish(i, column, _mm512_load_ps(line), _mm512_load_ps(line + LINES));
            }
        }
    }
}

inline __m512 widened(const bfloat16 *place) {
    const auto bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(place));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __m512i narrowed(__m512 one, __m512 two) { return (__m512i)_mm512_cvtne2ps_pbh(two, one); }

}  // namespace
