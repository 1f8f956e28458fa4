// The gradients of a visual adapter in bfloat16 on processors that multiply tiles, in one call.
//
// Runs are taken one by one, and some images at a time, so that matrices stay in a core's cache from
// product to product; what follows a product is done on its sums as they leave the tiles. Formulas
// and names are those of `cafe/methods/clip_adapter/gradients.py` and of `kernels.cpp`.

#include "kernels.cpp"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include "tiles.h"

namespace {

// What to do with sums in the end: put them into a matrix, 0 where they are less than `least`.
inline auto into(bfloat16 *out, long pitch, __m512 least = _mm512_set1_ps(-INFINITY)) {
    return [=](long row, long column, __m512 one, __m512 two) {  // of NaN `max` takes the second
        const auto numbers = narrowed(_mm512_max_ps(least, one), _mm512_max_ps(least, two));
        _mm512_storeu_si512(out + row * pitch + column, numbers);
    };
}

inline __m512 exp_of(__m512 x) {  // as of a single number, in `kernels.cpp`
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
    const __m512 n = _mm512_roundscale_ps(x * 1.44269504f, _MM_FROUND_TO_NEAREST_INT);
    const __m512 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    __m512 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return _mm512_scalef_ps(p * r * r + r + 1.0f, n);
}

// `class_errors` of one image; spends the products, and returns the pull.
float image_errors(float *products, bfloat16 *errors, float norm, float slope, float factor,
                   long classes, long label) {
    const float own = products[label];
    __m512 highest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps(), along = sum;
    for (long c = 0; c < classes; c += LINES) {
        const auto some = static_cast<__mmask16>(first(classes - c));
        highest = _mm512_mask_max_ps(highest, some, highest, _mm512_load_ps(products + c));
    }
    const float most = _mm512_reduce_max_ps(highest);
    for (long c = 0; c < padded(classes); c += LINES) {
        const auto some = static_cast<__mmask16>(first(classes - c));
        const __m512 p = _mm512_load_ps(products + c);
        const __m512 e = _mm512_maskz_mov_ps(some, exp_of(slope * (p - most)));
        _mm512_store_ps(products + c, e);
        sum += e;
        along += e * p;
    }
    const float total = _mm512_reduce_add_ps(sum), share = factor / total;
    for (long c = 0; c < classes; c += BLOCK) {
        const __m512 one = _mm512_load_ps(products + c), two = _mm512_load_ps(products + c + LINES);
        _mm512_store_si512(errors + c, narrowed(share * one, share * two));
    }
    store(errors[label], share * products[label] - factor);
    return -factor * (_mm512_reduce_add_ps(along) / total - own) / (norm * norm);
}

}  // namespace

extern "C" {

int has_tiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }  // asks Linux for their state

// The class weights as right operands: for logits, and for the gradient of the blend.
void pack_classes_bfloat16(const bfloat16 *w, bfloat16 *for_logits, bfloat16 *for_gradient,
                           long classes, long width) {
    pack<true, true>(for_logits, w, width, classes, width);
    pack<true, false>(for_gradient, w, width, width, classes);
}

// `visual_gradients` of Python, for a width that is a multiple of 32; `inner` is the bottleneck.
void visual_gradients_bfloat16(const bfloat16 *x, const bfloat16 *for_logits,
                               const bfloat16 *for_gradient, const bfloat16 *down,
                               const bfloat16 *up, const float *ratio, const std::int64_t *y,
                               bfloat16 *d_down, bfloat16 *d_up, float scale, long streams,
                               long runs, long images, long width, long inner, long classes,
                               int relu) {
    const Configured configured;
    const long rows = padded(images), units = pitch(inner), scores = pitch(classes);
    const long wide = pitch(width), weights = padded(inner) * width;
    const long part = classes > 256 ? 256 : 32;  // images at a time: all read the class weights
    bfloat16 *x_rows = room(0, rows * width), *x_columns = room(1, rows * width);
    bfloat16 *down_by_width = room(2, weights), *up_by_width = room(3, weights);
    bfloat16 *up_by_unit = room(4, weights), *gradient = room(5, rows * width);
    bfloat16 *hidden = room(6, rows * units), *d_hidden = room(7, rows * units);
    bfloat16 *across = room(8, rows * padded(inner)), *errors = room(9, part * scores);
    bfloat16 *d_adapted = room(10, part * wide), *blend = room(11, part * wide);
    float *products = floats(12, part * scores), *pull = floats(13, part);
    __m512 *squares = reinterpret_cast<__m512 *>(room(14, part * BLOCK));
    auto *on = reinterpret_cast<std::uint32_t *>(room(15, part * width / LINES));  // where A > 0
    const __m512 zero = _mm512_setzero_ps(), least = relu ? zero : _mm512_set1_ps(-INFINITY);

    for (long run = 0; run < streams * runs; ++run) {
        const float a = ratio[run];
        if (run % runs == 0) {
            pack<false, true>(x_rows, x + run / runs * images * width, width, images, width);
            pack<true, false>(x_columns, x + run / runs * images * width, width, width, images);
        }
        const std::int64_t *label = y + run / runs * images;
        pack<true, true>(down_by_width, down, width, inner, width);
        pack<true, false>(up_by_unit, up, width, width, inner);
        pack<true, true>(up_by_width, up, width, inner, width);
        for (long start = 0; start < images; start += part) {
            const long count = std::min(part, images - start);
            const Left own = packed(x_rows + start * width, width);
            bfloat16 *h = hidden + start * units, *d_h = d_hidden + start * units;
            multiply(own, down_by_width, count, inner, width, into(h, units, zero));

            std::fill(squares, squares + count, zero);
            const auto mix = [&](long row, long column, __m512 one, __m512 two) {
                const auto some = _mm512_cmp_ps_mask(one, least, _CMP_GT_OQ);
                const auto more = _mm512_cmp_ps_mask(two, least, _CMP_GT_OQ);
                on[(row * width + column) / BLOCK] = _mm512_kunpackw(more, some);
                const bfloat16 *v = own.at(row, column);
                const __m512 first = widened(v), second = widened(v + LINES);
                one = first + a * (_mm512_max_ps(least, one) - first);
                two = second + a * (_mm512_max_ps(least, two) - second);
                _mm512_store_si512(blend + row * wide + column, narrowed(one, two));
                squares[row] += one * one + two * two;
            };
            multiply(plain(h, units), up_by_unit, count, width, inner, mix);

            const auto keep = [=](long row, long column, __m512 one, __m512 two) {
                _mm512_store_ps(products + row * scores + column, one);
                _mm512_store_ps(products + row * scores + column + LINES, two);
            };
            multiply(plain(blend, wide), for_logits, count, classes, width, keep);
            for (long row = 0; row < count; ++row) {
                const float length = std::sqrt(_mm512_reduce_add_ps(squares[row]));
                const float norm = length < 1e-12f ? 1e-12f : length, slope = scale / norm;
                pull[row] = image_errors(products + row * scores, errors + row * scores, norm,
                                         slope, a * slope / images, classes, label[start + row]);
            }

            const auto turn = [&](long row, long column, __m512 one, __m512 two) {
                const auto some = on[(row * width + column) / BLOCK];
                const bfloat16 *f = blend + row * wide + column;
                const __m512 along = _mm512_set1_ps(pull[row]);
                one += along * widened(f);
                two += along * widened(f + LINES);
                const auto numbers = _mm512_maskz_mov_epi16(some, narrowed(one, two));
                _mm512_store_si512(d_adapted + row * wide + column, numbers);
            };
            multiply(plain(errors, scores), for_gradient, count, width, classes, turn);

            const auto pass = [=](long row, long column, __m512 one, __m512 two) {
                const __m512i unit = _mm512_loadu_si512(h + row * units + column);
                const auto some = _mm512_test_epi16_mask(unit, unit);
                const auto numbers = _mm512_maskz_mov_epi16(some, narrowed(one, two));
                _mm512_storeu_si512(d_h + row * units + column, numbers);
            };
            multiply(plain(d_adapted, wide), up_by_width, count, inner, width, pass);
            pack<true, false>(gradient + start / BLOCK * TILE, d_adapted, wide, width, count,
                              rows / BLOCK * TILE);
        }
        pack<false, false>(across, hidden, units, inner, images);
        multiply(packed(across, images), gradient, inner, width, images, into(d_up, width));
        pack<false, false>(across, d_hidden, units, inner, images);
        multiply(packed(across, images), x_columns, inner, width, images, into(d_down, width));
        down += inner * width;
        up += inner * width;
        d_down += inner * width;
        d_up += inner * width;
    }
}

}  // extern "C"

#else

extern "C" int has_tiles() { return 0; }

#endif
