// Residual networks on a CPU: 3x3 convolutions together with what surrounds them, so that a layer
// reads and writes its images once forward and once backward. Images lie as (N, H, W, C) with C a
// multiple of 16. Two precisions: float32, and bfloat16 numbers whose sums are float32.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

typedef float Vec __attribute__((vector_size(64)));  // one number for each of 16 channels
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

template <class T> INLINE T load(const void* from) { T v; memcpy(&v, from, sizeof v); return v; }
template <class T> INLINE void store(void* to, T v) { memcpy(to, &v, sizeof v); }
INLINE Vec relu(Vec v) { return v < 0 ? Vec{} : v; }  // keeps what is no number

// ---- Two precisions. S is what is stored; a unit of 32 bits, PER numbers, enters one product.

struct Full {
    typedef float S;
    typedef Vec Stored;
    enum { PER = 1 };
    INLINE Vec narrow(Vec v) { return v; }
    INLINE Vec get(const S* from) { return load<Vec>(from); }
    INLINE Vec put(S* to, Vec v) { store(to, v); return v; }
    INLINE Vec rounded(Vec v) { return v; }
    INLINE Vec multiply(Vec sum, Vec w, int32_t unit) { return sum + w * load<float>(&unit); }
};

struct Half {
    typedef uint16_t S;
    typedef Halves Stored;
    enum { PER = 2 };
    INLINE Vec wide(Halves h) { return (Vec)(__builtin_convertvector(h, Words) << 16); }
    INLINE Vec get(const S* from) { return wide(load<Halves>(from)); }
    INLINE Vec put(S* to, Vec v) { Halves h = narrow(v); store(to, h); return wide(h); }
    INLINE Vec rounded(Vec v) { return wide(narrow(v)); }
#ifdef __AVX512BF16__
    INLINE Halves narrow(Vec v) { return (Halves)_mm512_cvtneps_pbh((__m512)v); }
    INLINE Vec multiply(Vec sum, Vec w, int32_t unit) {
        return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)w, (__m512bh)_mm512_set1_epi32(unit));
    }
#else
    INLINE Halves narrow(Vec v) {  // to the nearest, ties to even
        Words w = (Words)v, rounded = w + 0x7fff + ((w >> 16) & 1);
        Words number = (Words)(v == v);
        return __builtin_convertvector(((number & rounded) | (~number & 0x7fc00000)) >> 16, Halves);
    }
    INLINE Vec multiply(Vec sum, Vec w, int32_t unit) {
        int32_t low = unit << 16, high = unit & 0xffff0000;
        sum += (Vec)((Words)w << 16) * load<float>(&low);
        return sum + (Vec)((Words)w & 0xffff0000u) * load<float>(&high);
    }
#endif
};

// ---- What a call is given

// A convolution with the normalisation after it; `gamma` is null where there is none.
extern "C" struct Layer {
    int32_t n, h, w, cin, cout, stride, used;  // rows, columns of the input; used: channels not padding
    float eps, momentum;
    float *weight, *dweight, *bias, *dbias;  // weights are (3, 3, used, cout)
    void *packed, *turned;                   // weights as the products take them, and for backward
    void* y;                                 // the output, before its normalisation
    float *gamma, *dgamma, *mean, *var;      // bias is beta; running mean and variance
    float *mu, *root, *scale;                // of the batch: mean, 1/sqrt(var + eps), gamma root
    float *tilt, *level;                     // dy = scale g + tilt (y - mu) + level
};

INLINE int outputs(int size, int stride) { return (size - 1) / stride + 1; }

// relu(scale (y - mu) + shift) of 16 channels, or y as it is.
template <class P, bool NORMED> struct Input {
    Vec mu, scale, shift;
    Input(const Layer* from, int channel) {
        if (NORMED) mu = load<Vec>(from->mu + channel), scale = load<Vec>(from->scale + channel), shift = load<Vec>(from->bias + channel);
    }
    INLINE Vec of(const Input& i, const typename P::S* y) {
        Vec v = P::get(y);
        return NORMED ? relu((v - i.mu) * i.scale + i.shift) : v;
    }
    INLINE typename P::Stored stored(const Input& i, const typename P::S* y) {
        return NORMED ? P::narrow(of(i, y)) : load<typename P::Stored>(y);
    }
};

// The shortcut of option A: every stride-th pixel, and zeros for channels that x lacks.
template <class P> struct Shortcut {
    const typename P::S* x;
    int height, width, channels, stride;
    const typename P::S* row(int image, int h, int channel) const {
        if (!x || channel >= channels) return nullptr;
        return x + (((long)image * height + h * stride) * width) * channels + channel;
    }
    long step() const { return (long)stride * channels; }
};

// An image in blocks of 16 channels with a border of zeros: (C/16, H+2, W+3, 16).
template <class S> struct Padded {
    long pitch, block;
    std::vector<S> data;
    S* base;
    Padded(int h, int w, int channels) : pitch(16L * (w + 3)), block(pitch * (h + 2)), data(block * (channels / 16) + 32) {
        base = (S*)(((uintptr_t)data.data() + 63) & ~(uintptr_t)63);
    }
    S* at(int cb, int row, int col) { return base + cb * block + (row + 1) * pitch + (col + 1) * 16; }
};

// Calls f(index, 0 or 1), so that two sums in turn hide the time an addition takes.
template <class F> INLINE void in_turn(int count, F f) {
    int i = 0;
    for (; i + 1 < count; i += 2) f(i, 0), f(i + 1, 1);
    if (i < count) f(i, 0);
}

// ---- Products

// R x Q neighbouring outputs of 16 K channels.
template <class P, int R, int Q, int K, int ST>
INLINE void tile(const typename P::S* x, long pitch, long block, int blocks, int units, const float* w, float* out, long row, long step) {
    Vec sum[R][Q][K] = {};
    for (int b = 0; b < blocks; b++)
        for (int t = 0; t < 3; t++)
            for (int s = 0; s < 3; s++) {
                const typename P::S* from[R];
                UNROLL for (int r = 0; r < R; r++) from[r] = x + b * block + (r * ST + t) * pitch + s * 16;
                for (int u = 0; u < units; u++, w += 16 * K) {
                    Vec v[K];
                    UNROLL for (int k = 0; k < K; k++) v[k] = load<Vec>(w + 16 * k);
                    UNROLL for (int r = 0; r < R; r++) UNROLL for (int q = 0; q < Q; q++) {
                        int32_t unit = load<int32_t>(from[r] + q * ST * 16 + u * P::PER);
                        UNROLL for (int k = 0; k < K; k++) sum[r][q][k] = P::multiply(sum[r][q][k], v[k], unit);
                    }
                }
            }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int q = 0; q < Q; q++) UNROLL for (int k = 0; k < K; k++)
        store(out + r * row + q * step + 16 * k, sum[r][q][k]);
}

// R rows of outputs, in tiles of sixteen sums.
template <class P, int R, int K, int ST>
INLINE void tiles(const typename P::S* x, long pitch, long block, int blocks, int units, const float* w, float* out, int width, int step) {
    int q = 0;
#define TILE(Q) tile<P, R, Q, K, ST>(x + q * ST * 16, pitch, block, blocks, units, w, out + (long)q * step, (long)width * step, step)
    if (R * K == 1) for (; q + 16 <= width; q += 16) TILE(R * K == 1 ? 16 : 1);
    if (R * K <= 2) for (; q + 8 <= width; q += 8) TILE(R * K <= 2 ? 8 : 1);
    for (; q + 4 <= width; q += 4) TILE(4);
    for (; q < width; q++) TILE(1);
#undef TILE
}

// Rows [first, last) of a convolution: (rows, width, cout), in float32.
template <class P, int K, int ST>
static void convolve(Padded<typename P::S>& x, int blocks, int units, const float* w, int cout, int first, int last, int width, float* out) {
    const bool low = width < 16 / K;
    for (int c = 0; c < cout; c += 16 * K, w += 9L * blocks * units * 16 * K) {
        int h = first;
        for (; low && h + 2 <= last; h += 2)
            tiles<P, 2, K, ST>(x.at(0, h * ST - 1, -1), x.pitch, x.block, blocks, units, w, out + (long)(h - first) * width * cout + c, width, cout);
        for (; h < last; h++)
            tiles<P, 1, K, ST>(x.at(0, h * ST - 1, -1), x.pitch, x.block, blocks, units, w, out + (long)(h - first) * width * cout + c, width, cout);
    }
}

template <class P>
static void convolve(Padded<typename P::S>& x, int blocks, int units, const void* w, int cout, int stride, int first, int last, int width, float* out) {
#define CALL(K, ST) convolve<P, K, ST>(x, blocks, units, (const float*)w, cout, first, last, width, out)
    if (cout % 32) stride == 1 ? CALL(1, 1) : CALL(1, 2);
    else stride == 1 ? CALL(2, 1) : CALL(2, 2);
#undef CALL
}

// The same of a gradient that is spread out over every second pixel, without the products with the
// zeros in between: even rows and columns have the middle tap alone, odd ones the two beside it.
template <class P, int Q, int K>
INLINE void thin_tile(const typename P::S* x, long pitch, long block, int blocks, int units, const float* w, float* out, long step, int row, int odd) {
    Vec sum[Q][K] = {};
    for (int b = 0; b < blocks; b++)
        for (int t = row ? 0 : 1; t < 3; t += 2)
            for (int s = odd ? 0 : 1; s < 3; s += 2) {
                const typename P::S* from = x + b * block + t * pitch + s * 16;
                const float* v = w + ((b * 3L + t) * 3 + s) * units * 16 * K;
                for (int u = 0; u < units; u++, v += 16 * K)
                    UNROLL for (int q = 0; q < Q; q++) {
                        int32_t unit = load<int32_t>(from + q * 32 + u * P::PER);
                        UNROLL for (int k = 0; k < K; k++) sum[q][k] = P::multiply(sum[q][k], load<Vec>(v + 16 * k), unit);
                    }
            }
    UNROLL for (int q = 0; q < Q; q++) UNROLL for (int k = 0; k < K; k++) store(out + q * step + 16 * k, sum[q][k]);
}

template <class P, int K>
static void convolve_spread(Padded<typename P::S>& x, int blocks, int units, const float* w, int cout, int first, int last, int width, float* out) {
    for (int c = 0; c < cout; c += 16 * K, w += 9L * blocks * units * 16 * K)
        for (int h = first; h < last; h++)
            for (int odd = 0; odd < 2; odd++) {
                int q = odd;
#define TILE(Q) thin_tile<P, Q, K>(x.at(0, h - 1, q - 1), x.pitch, x.block, blocks, units, w, out + ((long)(h - first) * width + q) * cout + c, 2L * cout, h % 2, odd)
                if (K == 1) for (; q + 31 <= width; q += 32) TILE(K == 1 ? 16 : 1);
                for (; q + 15 <= width; q += 16) TILE(8);
                for (; q + 7 <= width; q += 8) TILE(4);
                for (; q < width; q += 2) TILE(1);
#undef TILE
            }
}

// Rows of the gradient of an input, from that of the output: (rows, width, cin), in float32.
template <class P>
static void convolve_back(const Layer& l, Padded<typename P::S>& g, int first, int last, float* out) {
    const int blocks = l.cout / 16, units = 16 / P::PER;
    const float* w = (const float*)l.turned;
    if (l.stride == 1) convolve<P>(g, blocks, units, w, l.cin, 1, first, last, l.w, out);
    else if (l.cin % 32) convolve_spread<P, 1>(g, blocks, units, w, l.cin, first, last, l.w, out);
    else convolve_spread<P, 2>(g, blocks, units, w, l.cin, first, last, l.w, out);
}

// Rows computed before they are passed on, so that they stay in the first cache.
INLINE int band(int width, int channels) { int rows = 4096 / (width * channels); return rows < 2 ? 2 : rows & ~1; }

// A row of taps of the weights' gradient: 3 taps x 4 inputs x 16 K outputs.
template <class P, int K>
static void taps(const int32_t* even, const int32_t* odd, long pitch, int step, const int32_t* dy, long block, int height, int units, float* dw, int cin, int cout) {
    Vec sum[3][4][K] = {};
    const int third = P::PER == 2 ? 16 : 32;
    for (int h = 0; h < height; h++) {
        const int32_t *e = even + h * pitch, *o = odd + h * pitch;
        for (int p = 0; p < units; p++, dy += 16, e += step, o += step) {
            Vec d[K];
            UNROLL for (int k = 0; k < K; k++) d[k] = load<Vec>(dy + k * block);
            UNROLL for (int c = 0; c < 4; c++) UNROLL for (int k = 0; k < K; k++) {
                sum[0][c][k] = P::multiply(sum[0][c][k], d[k], e[c]);
                sum[1][c][k] = P::multiply(sum[1][c][k], d[k], o[c]);
                sum[2][c][k] = P::multiply(sum[2][c][k], d[k], e[c + third]);
            }
        }
    }
    UNROLL for (int s = 0; s < 3; s++) UNROLL for (int c = 0; c < 4; c++) UNROLL for (int k = 0; k < K; k++) {
        float* to = dw + ((long)s * cin + c) * cout + 16 * k;
        store(to, load<Vec>(to) + sum[s][c][k]);
    }
}

// ---- An image on its way into the products

template <class P, bool NORMED>
static void enter(const Layer& l, const typename P::S* x, const Layer* before, Padded<typename P::S>& to) {
    for (int cb = 0; cb < l.cin / 16; cb++) {
        const Input<P, NORMED> in(before, cb * 16);
        for (int h = 0; h < l.h; h++) {
            const typename P::S* from = x + (long)h * l.w * l.cin + cb * 16;
            typename P::S* line = to.at(cb, h, 0);
            for (int w = 0; w < l.w; w++) store(line + w * 16, in.stored(in, from + (long)w * l.cin));
        }
    }
}

// An input as the weights' gradient takes it: in units, those that begin with even columns of the
// padded image and those that begin with odd ones.
template <class P> struct Units;
template <> struct Units<Full> {
    Padded<float> in;
    const int32_t *even, *odd;
    long pitch, block;
    Units(const Layer& l) : in(l.h, l.w, l.cin), even((int32_t*)in.base), odd(even + 16), pitch(in.pitch), block(in.block) {}
    template <bool NORMED> void fill(const Layer& l, const float* x, const Layer* before) { enter<Full, NORMED>(l, x, before, in); }
};
template <> struct Units<Half> {
    long pitch, block;
    std::vector<int32_t> data;
    int32_t *even, *odd;
    Units(const Layer& l) : pitch(16L * ((l.w + 3) / 2 + 1)), block(pitch * (l.h + 2)), data(2 * block * (l.cin / 16) + 16) {
        even = (int32_t*)(((uintptr_t)data.data() + 63) & ~(uintptr_t)63), odd = even + block * (l.cin / 16);
    }
    template <bool NORMED> void fill(const Layer& l, const uint16_t* x, const Layer* before) {
        for (int cb = 0; cb < l.cin / 16; cb++) {
            const Input<Half, NORMED> in(before, cb * 16);
            for (int h = 0; h < l.h; h++) {
                const uint16_t* from = x + (long)h * l.w * l.cin + cb * 16;
                int32_t *e = even + cb * block + (h + 1) * pitch, *o = odd + cb * block + (h + 1) * pitch;
                Words left{};  // columns 2p - 1, 2p, 2p + 1
                int p = 0;
                auto at = [&](long w) { return __builtin_convertvector(in.stored(in, from + w * l.cin), Words); };
                for (; 2 * p + 1 < l.w; p++, e += 16, o += 16) {
                    Words mid = at(2 * p), right = at(2 * p + 1);
                    store(e, left | mid << 16), store(o, mid | right << 16);
                    left = right;
                }
                Words mid = 2 * p < l.w ? at(2 * p) : Words{};
                store(e, left | mid << 16), store(o, mid);
            }
        }
    }
};

// The gradient of an output, prepared for both products: padded and spread out over the input's
// pixels, and in units, (C/16, H', wide, 16).
template <class P> struct Gradient {
    Padded<typename P::S> spread;
    int wide;
    long block;
    std::vector<int32_t> units;
    Gradient(const Layer& l) : spread(l.h, l.w, l.cout) {
        int width = outputs(l.w, l.stride);
        wide = P::PER == 2 && l.stride == 1 ? (width + 1) / 2 : width;
        block = 16L * wide * outputs(l.h, l.stride);
        units.resize(block * (l.cout / 16) + 16);
    }
};

INLINE void unit(Vec first, Vec, int32_t* to) { store(to, first); }
INLINE void unit(Halves first, Halves second, int32_t* to) {
    store(to, __builtin_convertvector(first, Words) | __builtin_convertvector(second, Words) << 16);
}

template <class P, bool NORMED>
static void take(const Layer& l, const typename P::S* g, const typename P::S* y, Gradient<P>& to) {
    typedef typename P::Stored Stored;
    const int height = outputs(l.h, l.stride), width = outputs(l.w, l.stride), step = l.stride * 16;
    const bool paired = to.wide < width;
    for (int cb = 0; cb < l.cout / 16; cb++) {
        Vec mu{}, scale{}, tilt{}, level{};
        if (NORMED) mu = load<Vec>(l.mu + cb * 16), scale = load<Vec>(l.scale + cb * 16), tilt = load<Vec>(l.tilt + cb * 16), level = load<Vec>(l.level + cb * 16);
        auto at = [&](long i) -> Stored {
            if (!NORMED) return load<Stored>(g + i);
            return P::narrow(P::get(g + i) * scale + ((P::get(y + i) - mu) * tilt + level));
        };
        for (int h = 0; h < height; h++) {
            long place = (long)h * width * l.cout + cb * 16;
            typename P::S* line = to.spread.at(cb, h * l.stride, 0);
            int32_t* units = &to.units[cb * to.block + (long)h * to.wide * 16];
            int w = 0;
            if (paired)
                for (; w + 1 < width; w += 2, place += 2 * l.cout, line += 32, units += 16) {
                    Stored first = at(place), second = at(place + l.cout);
                    store(line, first), store(line + 16, second), unit(first, second, units);
                }
            for (; w < width; w++, place += l.cout, line += step, units += 16) {
                Stored first = at(place);
                store(line, first), unit(first, Stored{}, units);
            }
        }
    }
}

template <class P, int K>
static void weights(const Layer& l, const Units<P>& x, const Gradient<P>& g, float* dw) {
    const int height = outputs(l.h, l.stride), step = 16 * (P::PER == 2 ? 1 : l.stride);
    for (int k = 0; k < l.cout; k += 16 * K)
        for (int t = 0; t < 3; t++)
            for (int i = 0; i < l.used; i += 4) {
                long at = (i / 16) * x.block + t * x.pitch + i % 16;
                taps<P, K>(x.even + at, x.odd + at, x.pitch * l.stride, step, &g.units[k / 16 * g.block], g.block, height, g.wide,
                           dw + ((long)t * 3 * l.cin + i) * l.cout + k, l.cin, l.cout);
            }
}

// ---- Sums over the batch: float32 within a band of an image, double from there

struct Sums {
    std::vector<double> first, second;
    Sums(int channels) : first(channels), second(channels) {}
    void add(int channel, Vec a, Vec b) {
        for (int i = 0; i < 16; i++) first[channel + i] += a[i], second[channel + i] += b[i];
    }
    void add(const Sums& other) {
        for (size_t i = 0; i < first.size(); i++) first[i] += other.first[i], second[i] += other.second[i];
    }
};

// Calls f(thread, first, last) for shares of n images.
template <class F> static void shared(int n, int threads, F f) {
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
    for (int t = 0; t < threads; t++) f(t, (int)((long)n * t / threads), (int)((long)n * (t + 1) / threads));
}

// ---- Forward

// Stores outputs before their normalisation, with the sums of y - centre and its square.
template <class P>
static void leave(const Layer& l, const float* sheet, long pixels, const float* centre, typename P::S* y, Sums& sums) {
    for (int c = 0; c < l.cout; c += 16) {
        const Vec mid = load<Vec>(centre + c);
        Vec a[2] = {}, b[2] = {};
        in_turn(pixels, [&](long p, int i) {
            Vec d = P::put(y + p * l.cout + c, load<Vec>(sheet + p * l.cout + c)) - mid;
            a[i] += d, b[i] += d * d;
        });
        sums.add(c, a[0] + a[1], b[0] + b[1]);
    }
}

// Stores relu(output + bias + shortcut).
template <class P>
static void leave(const Layer& l, const float* sheet, int image, int first, int last, const Shortcut<P>& add, typename P::S* y) {
    const int width = outputs(l.w, l.stride);
    for (int c = 0; c < l.cout; c += 16) {
        const Vec bias = load<Vec>(l.bias + c);
        for (int h = first; h < last; h++) {
            const float* from = sheet + (long)(h - first) * width * l.cout + c;
            typename P::S* to = y + (long)(h - first) * width * l.cout + c;
            const typename P::S* other = add.row(image, h, c);
            if (other) for (long w = 0; w < width; w++) P::put(to + w * l.cout, relu(load<Vec>(from + w * l.cout) + bias + P::get(other + w * add.step())));
            else for (long w = 0; w < width; w++) P::put(to + w * l.cout, relu(load<Vec>(from + w * l.cout) + bias));
        }
    }
}

// What the batch's sums say: mean, variance, and the running statistics moved by them.
static void settle(const Layer& l, const float* centre, const Sums& sums) {
    const double m = (double)l.n * outputs(l.h, l.stride) * outputs(l.w, l.stride);
    for (int c = 0; c < l.cout; c++) {
        double mean = sums.first[c] / m, var = sums.second[c] / m - mean * mean;
        var = var < 0 ? 0 : var;
        l.mu[c] = (float)(centre[c] + mean), l.root[c] = (float)(1 / std::sqrt(var + l.eps)), l.scale[c] = l.gamma[c] * l.root[c];
        l.mean[c] += l.momentum * (l.mu[c] - l.mean[c]);
        l.var[c] += l.momentum * ((float)(var * m / (m - 1)) - l.var[c]);
    }
}

INLINE int units_of(int used, int per) { return used < 16 ? (used + per - 1) / per : 16 / per; }

// Mean c of the first rows of the first image: sums of squares about it lose no digits to a large
// mean. Of m values with mean mu and variance s^2, any b have a mean within s sqrt((m - b) / b) of
// mu (Samuelson's inequality), so that the sums are at most m / b times those about mu.
template <class P>
static void find_centre(const Layer& l, Padded<typename P::S>& in, float* sheet, int rows, float* centre) {
    const int width = outputs(l.w, l.stride);
    convolve<P>(in, l.cin / 16, units_of(l.used, P::PER), l.packed, l.cout, l.stride, 0, rows, width, sheet);
    for (int c = 0; c < l.cout; c += 16) {
        Vec sum = {};
        for (long p = 0; p < (long)rows * width; p++) sum += P::rounded(load<Vec>(sheet + p * l.cout + c));
        store(centre + c, sum / (float)(rows * width));
    }
}

template <class P>
static void forward(const Layer& l, const typename P::S* x, const Layer* before, const Shortcut<P>& add, int threads) {
    const int height = outputs(l.h, l.stride), width = outputs(l.w, l.stride);
    const int rows = band(width, l.cout) < height ? band(width, l.cout) : height;
    const long row = (long)width * l.cout;
    std::vector<float> centre(l.cout);
    std::vector<Sums> sums(threads, Sums(l.cout));
    auto entering = [&](int n, Padded<typename P::S>& in) {
        const typename P::S* image = x + (long)n * l.h * l.w * l.cin;
        before ? enter<P, true>(l, image, before, in) : enter<P, false>(l, image, before, in);
    };
    if (l.gamma) {
        Padded<typename P::S> in(l.h, l.w, l.cin);
        std::vector<float> sheet(rows * row);
        entering(0, in);
        find_centre<P>(l, in, sheet.data(), rows, centre.data());
    }
    shared(l.n, threads, [&](int thread, int begin, int end) {
        Padded<typename P::S> in(l.h, l.w, l.cin);
        std::vector<float> sheet(rows * row);
        for (int n = begin; n < end; n++) {
            entering(n, in);
            for (int h = 0; h < height; h += rows) {
                int last = h + rows < height ? h + rows : height;
                typename P::S* y = (typename P::S*)l.y + ((long)n * height + h) * row;
                convolve<P>(in, l.cin / 16, units_of(l.used, P::PER), l.packed, l.cout, l.stride, h, last, width, sheet.data());
                if (l.gamma) leave<P>(l, sheet.data(), (long)(last - h) * width, centre.data(), y, sums[thread]);
                else leave<P>(l, sheet.data(), n, h, last, add, y);
            }
        }
    });
    for (int t = 1; t < threads; t++) sums[0].add(sums[t]);
    if (l.gamma) settle(l, centre.data(), sums[0]);
}

// to = relu(scale (y - mu) + shift + shortcut)
template <class P>
static void join(const Layer& l, const Shortcut<P>& add, typename P::S* to) {
    const int height = outputs(l.h, l.stride), width = outputs(l.w, l.stride);
    for (int n = 0; n < l.n; n++)
        for (int c = 0; c < l.cout; c += 16) {
            const Vec mu = load<Vec>(l.mu + c), scale = load<Vec>(l.scale + c), shift = load<Vec>(l.bias + c);
            for (int h = 0; h < height; h++) {
                const long place = ((long)n * height + h) * width * l.cout + c;
                const typename P::S *from = (typename P::S*)l.y + place, *other = add.row(n, h, c);
                for (long w = 0; w < width; w++) {
                    Vec v = (P::get(from + w * l.cout) - mu) * scale + shift;
                    P::put(to + place + w * l.cout, relu(other ? v + P::get(other + w * add.step()) : v));
                }
            }
        }
}

// ---- Backward

// From the sums over the batch of g and g (y - mu): gradients of scale and shift, and the three
// numbers by which the gradient of y follows from g.
static void settle_back(const Layer& l, const Sums& sums) {
    const double m = (double)l.n * outputs(l.h, l.stride) * outputs(l.w, l.stride);
    for (int c = 0; c < l.cout; c++) {
        l.dbias[c] = (float)sums.first[c];
        if (!l.gamma) continue;
        double root = l.root[c], aligned = sums.second[c] * root;
        l.dgamma[c] = (float)aligned;
        l.level[c] = (float)(-l.scale[c] * sums.first[c] / m), l.tilt[c] = (float)(-l.scale[c] * root * aligned / m);
    }
}

// A gradient that reaches an activation from above: the convolution's, the shortcut's added, held
// back where the activation is 0; with the sums that the layer `to` below needs.
template <class P, bool NORMED, bool SUMMED>
static void hand_back(const Layer& l, const float* sheet, int image, int first, int last, const typename P::S* x, const Layer* before,
                      const Shortcut<P>& add, const Layer& to, typename P::S* dx, Sums& sums) {
    for (int c = 0; c < l.cin; c += 16) {
        const Input<P, NORMED> in(before, c);
        const Vec mu = SUMMED ? load<Vec>(to.mu + c) : Vec{};
        Vec a[2] = {}, b[2] = {};
        for (int h = first; h < last; h++) {
            const long place = ((long)image * l.h + h) * l.w * l.cin + c;
            const float* from = sheet + (long)(h - first) * l.w * l.cin + c;
            const typename P::S *here = x + place, *y = (typename P::S*)to.y + place;
            typename P::S* out = dx + place;
            const typename P::S* other = add.x && h % add.stride == 0 ? add.x + ((long)image * add.height + h / add.stride) * add.width * add.channels + c : nullptr;
            auto pass = [&](long w, int i, Vec v) {
                v = P::put(out + w * l.cin, in.of(in, here + w * l.cin) <= 0 ? Vec{} : v);
                a[i] += v;
                if (SUMMED) b[i] += v * (P::get(y + w * l.cin) - mu);
            };
            if (!other) in_turn(l.w, [&](long w, int i) { pass(w, i, load<Vec>(from + w * l.cin)); });
            else if (add.stride == 1) in_turn(l.w, [&](long w, int i) { pass(w, i, load<Vec>(from + w * l.cin) + P::get(other + w * add.channels)); });
            else for (long w = 0; w < l.w; w++) pass(w, 0, w % add.stride ? load<Vec>(from + w * l.cin) : load<Vec>(from + w * l.cin) + P::get(other + w / add.stride * add.channels));
        }
        sums.add(c, a[0] + a[1], b[0] + b[1]);
    }
}

template <class P>
static void backward(const Layer& l, const typename P::S* g, const typename P::S* x, const Layer* before, const Shortcut<P>& add, const Layer* to, typename P::S* dx, int threads) {
    const int height = outputs(l.h, l.stride), width = outputs(l.w, l.stride), rows = band(l.w, l.cin);
    const long size = 9L * l.cin * l.cout;
    std::vector<float> dw(size * threads);
    std::vector<Sums> sums(threads, Sums(l.cin));
    shared(l.n, threads, [&](int thread, int begin, int end) {
        Units<P> units(l);
        Gradient<P> out(l);
        std::vector<float> sheet((long)rows * l.w * l.cin);
        for (int n = begin; n < end; n++) {
            const typename P::S* image = x + (long)n * l.h * l.w * l.cin;
            const long place = (long)n * height * width * l.cout;
            l.gamma ? take<P, true>(l, g + place, (typename P::S*)l.y + place, out) : take<P, false>(l, g + place, nullptr, out);
            before ? units.template fill<true>(l, image, before) : units.template fill<false>(l, image, before);
            l.cout % 32 ? weights<P, 1>(l, units, out, &dw[thread * size]) : weights<P, 2>(l, units, out, &dw[thread * size]);
            for (int h = 0; to && h < l.h; h += rows) {
                int last = h + rows < l.h ? h + rows : l.h;
                convolve_back<P>(l, out.spread, h, last, sheet.data());
                auto hand = before ? hand_back<P, true, true> : to->gamma ? hand_back<P, false, true> : hand_back<P, false, false>;
                hand(l, sheet.data(), n, h, last, x, before, add, *to, dx, sums[thread]);
            }
        }
    });
    for (int t = 1; t < threads; t++) {
        sums[0].add(sums[t]);
        for (long i = 0; i < size; i++) dw[i] += dw[t * size + i];
    }
    for (int t = 0; t < 9; t++) memcpy(l.dweight + (long)t * l.used * l.cout, &dw[(long)t * l.cin * l.cout], sizeof(float) * l.used * l.cout);
    if (to) settle_back(*to, sums[0]);
}

// The mean over positions of the last activation, (n, channels), in float32.
template <class P>
static void pool(const Layer& l, const typename P::S* x, float* to) {
    const int pixels = outputs(l.h, l.stride) * outputs(l.w, l.stride);
    for (long n = 0; n < l.n; n++)
        for (int c = 0; c < l.cout; c += 16) {
            Vec sum = {};
            for (long p = 0; p < pixels; p++) sum += P::get(x + (n * pixels + p) * l.cout + c);
            store(to + n * l.cout + c, sum / (float)pixels);
        }
}

// Its gradient, held back where the activation is 0, with the sums of `hand_back`.
template <class P>
static void unpool(const Layer& l, const float* g, const typename P::S* x, typename P::S* dx) {
    const int pixels = outputs(l.h, l.stride) * outputs(l.w, l.stride);
    const typename P::S* y = (typename P::S*)l.y;
    Sums sums(l.cout);
    for (long n = 0; n < l.n; n++)
        for (int c = 0; c < l.cout; c += 16) {
            const Vec share = load<Vec>(g + n * l.cout + c) / (float)pixels, mu = l.gamma ? load<Vec>(l.mu + c) : Vec{};
            Vec a = {}, b = {};
            for (long p = 0; p < pixels; p++) {
                long at = (n * pixels + p) * l.cout + c;
                Vec v = P::put(dx + at, P::get(x + at) <= 0 ? Vec{} : share);
                a += v;
                if (l.gamma) b += v * (P::get(y + at) - mu);
            }
            sums.add(c, a, b);
        }
    settle_back(l, sums);
}

// ---- Weights laid out for the products: (cout/16K, cin/16, 3, 3, units, 16 K)

template <class P> static void pack(const Layer& l) {
    const int k = l.cout % 32 ? 16 : 32, units = units_of(l.used, P::PER);
    int32_t* to = (int32_t*)l.packed;
    for (int c = 0; c < l.cout; c += k)
        for (int b = 0; b < l.cin; b += 16)
            for (int t = 0; t < 9; t++)
                for (int i = b; i < b + units * P::PER; i += P::PER)
                    for (int j = c; j < c + k; j += 16, to += 16) {
                        const float* from = l.weight + ((long)t * l.used + i) * l.cout + j;
                        Vec one = load<Vec>(from);
                        if (P::PER == 1) { store(to, one); continue; }
                        Vec two = i + 1 < l.used ? load<Vec>(from + l.cout) : Vec{};
                        store(to, __builtin_convertvector(Half::narrow(one), Words) | __builtin_convertvector(Half::narrow(two), Words) << 16);
                    }
}

// Of the kernel turned round, with inputs and outputs changed over.
template <class P> static void turn(const Layer& l) {
    const int k = l.cin % 32 ? 16 : 32, units = 16 / P::PER;
    int32_t* to = (int32_t*)l.turned;
    typename P::S line[16];
    for (int c = 0; c < l.cin; c += k)
        for (int b = 0; b < l.cout; b += 16)
            for (int t = 8; t >= 0; t--, to += units * k)
                for (int i = 0; i < k; i++) {
                    P::put(line, load<Vec>(l.weight + ((long)t * l.cin + c + i) * l.cout + b));
                    for (int u = 0; u < units; u++) memcpy(to + u * k + i, line + u * P::PER, 4);
                }
}

#define EXPORT(P, name)                                                                                                       \
    extern "C" void name##_pack(Layer* l) { pack<P>(*l); if (l->turned) turn<P>(*l); }                                         \
    extern "C" void name##_forward(Layer* l, void* x, Layer* before, void* add, Layer* from, int threads) {                    \
        forward<P>(*l, (P::S*)x, before, from ? Shortcut<P>{(P::S*)add, from->h, from->w, from->cin, from->stride} : Shortcut<P>{}, threads); } \
    extern "C" void name##_join(Layer* l, void* add, Layer* from, void* to) {                                                  \
        join<P>(*l, from ? Shortcut<P>{(P::S*)add, from->h, from->w, from->cin, from->stride} : Shortcut<P>{}, (P::S*)to); }    \
    extern "C" void name##_backward(Layer* l, void* g, void* x, Layer* before, void* add, Layer* to, void* dx, int threads) {  \
        Shortcut<P> back{(P::S*)add, outputs(l->h, l->stride), outputs(l->w, l->stride), l->cout, l->stride};                  \
        backward<P>(*l, (P::S*)g, (P::S*)x, before, add ? back : Shortcut<P>{}, to, (P::S*)dx, threads); }                     \
    extern "C" void name##_pool(Layer* l, void* x, float* to) { pool<P>(*l, (P::S*)x, to); }                                   \
    extern "C" void name##_unpool(Layer* l, float* g, void* x, void* dx) { unpool<P>(*l, g, (P::S*)x, (P::S*)dx); }
EXPORT(Half, half)
EXPORT(Full, full)
