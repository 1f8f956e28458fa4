// Passes of a training step that PyTorch takes in several, each here in one.
//
// Every function has a twin in PyTorch that is taken where there is no compiler, and that the tests
// compare it with. T, the type of products, is float or bfloat16; sums are taken in float.
//
// R = S * M runs of S streams, B images of a stream, D numbers of an image, C classes.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
    std::uint16_t bits;
};

inline float load(float value) { return value; }

inline float load(bfloat16 value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void store(float &place, float value) { place = value; }

inline void store(bfloat16 &place, float value) {  // to the nearest, of two to the even one
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    place.bits = static_cast<std::uint16_t>(value != value ? 0x7fc0 : rounded);
}

// e^x for x <= 0, to 2 units in the last place: 2^n times a polynomial in the rest (Cephes, expf).
inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// blend = (1 - a) x + a relu(adapted), and the norm of its rows.
template <typename T>
void blend_rows(const T *__restrict adapted, const T *__restrict x, const float *ratio,
                T *__restrict blend, float *norm, long streams, long runs, long images, long width,
                int relu) {
    const float least = relu ? 0.0f : -INFINITY;
    for (long run = 0; run < streams * runs; ++run) {
        const float a = ratio[run];
        for (long image = 0; image < images; ++image) {
            const T *__restrict own = x + (run / runs * images + image) * width;
            float square = 0.0f;
            for (long d = 0; d < width; ++d) {
                const float v = load(own[d]), raw = load(adapted[d]);
                const float f = v + a * ((raw < least ? least : raw) - v);
                store(blend[d], f);
                square += f * f;
            }
            const float length = std::sqrt(square);
            *norm++ = length < 1e-12f ? 1e-12f : length;
            adapted += width;
            blend += width;
        }
    }
}

// From products f w^T to a s G / |f| in their place, and -a (G . z) / |f|^2 of each row.
template <typename T>
void class_errors(T *products, const float *norm, const float *ratio, const std::int64_t *y,
                  float *pull, float *exps, float scale, long streams, long runs, long images,
                  long classes) {
    for (long run = 0; run < streams * runs; ++run) {
        for (long image = 0; image < images; ++image) {
            const float slope = scale / *norm;
            float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
            for (long c = 0; c < classes; ++c) {
                const float p = load(products[c]);
                highest = p > highest ? p : highest;
            }
            float sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
            for (long c = 0; c < classes; ++c) {
                const float p = load(products[c]), e = exp_of(slope * (p - highest));
                exps[c] = e;
                sum += e;
                along += e * p;
            }
            const long label = y[run / runs * images + image];
            const float own = load(products[label]);
            const float factor = ratio[run] * slope / images;  // of softmax - onehot
            *pull++ = -factor * (along / sum - own) / (*norm * *norm);
            const float share = factor / sum;
#pragma omp simd
            for (long c = 0; c < classes; ++c) {
                store(products[c], share * exps[c]);
            }
            store(products[label], share * exps[label] - factor);
            products += classes;
            ++norm;
        }
    }
}

// error = error + pull blend, 0 where the adapter's outer ReLU was.
template <typename T>
void blend_gradient(T *error, const T *__restrict blend, const T *__restrict adapted,
                    const float *pull, long rows, long width, int relu) {
    const float least = relu ? 0.0f : -INFINITY;
    for (long row = 0; row < rows; ++row) {
        const float along = pull[row];
        for (long d = 0; d < width; ++d) {
            const float whole = load(error[d]) + along * load(blend[d]);
            store(error[d], load(adapted[d]) > least ? whole : 0.0f);
        }
        error += width;
        blend += width;
        adapted += width;
    }
}

// A step of AdamW, and the weights in the type of products.
template <typename T>
void adamw(float *weight, const T *__restrict gradient, float *mean, float *square,
           T *__restrict low, long count, float shrink, float beta1, float beta2, float step_size,
           float correction, float eps) {
#pragma omp simd
    for (long i = 0; i < count; ++i) {
        const float g = load(gradient[i]);
        const float m = mean[i] + (1.0f - beta1) * (g - mean[i]);
        const float v = beta2 * square[i] + (1.0f - beta2) * g * g;
        mean[i] = m;
        square[i] = v;
        const float w = shrink * weight[i] - step_size * m / (std::sqrt(v) * correction + eps);
        weight[i] = w;
        if (sizeof(T) != sizeof(float)) store(low[i], w);
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                            \
    void blend_rows_##NAME(const T *adapted, const T *x, const float *ratio, T *blend,             \
                           float *norm, long streams, long runs, long images, long width,          \
                           int relu) {                                                             \
        blend_rows(adapted, x, ratio, blend, norm, streams, runs, images, width, relu);            \
    }                                                                                              \
    void class_errors_##NAME(T *products, const float *norm, const float *ratio,                   \
                             const std::int64_t *y, float *pull, float *exps, float scale,         \
                             long streams, long runs, long images, long classes) {                 \
        class_errors(products, norm, ratio, y, pull, exps, scale, streams, runs, images, classes); \
    }                                                                                              \
    void blend_gradient_##NAME(T *error, const T *blend, const T *adapted, const float *pull,      \
                               long rows, long width, int relu) {                                  \
        blend_gradient(error, blend, adapted, pull, rows, width, relu);                            \
    }                                                                                              \
    void adamw_##NAME(float *weight, const T *gradient, float *mean, float *square, T *low,        \
                      long count, float shrink, float beta1, float beta2, float step_size,         \
                      float correction, float eps) {                                               \
        adamw(weight, gradient, mean, square, low, count, shrink, beta1, beta2, step_size,         \
              correction, eps);                                                                    \
    }

extern "C" {
EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)
}
