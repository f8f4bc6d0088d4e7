/* Scales RGB images by weighted sums of neighbours, for processors with AVX2; `scale.py` computes the weights.

Libraries process one pixel of one or two rows per instruction. This kernel processes four pixels, twelve values, in 16
bits: value and weight are fractions of 65,536 and the upper halves of their products are summed, so a sum is exact to a
256th of a grey level per neighbour. The vertical pass comes first, as it treats all values of a row alike; in the
horizontal pass a shuffle mask picks the values of two pixels out of 16 bytes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifndef __x86_64__
#error "written for AVX2; without it torch scales"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 static inline __attribute__((always_inline))
enum { WIDEST_LOAD = 32 };

/* Vertical pass: one row of `n` values (32 or more) from `taps` rows that are `stride` bytes apart. */
INLINE void down_taps(const uint8_t *in, Py_ssize_t stride, int n, const uint16_t *weights, const int taps,
                      uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi16(128 + taps / 2);
    for (int x = 0; x < n; x += 32) {
        if (x > n - 32)
            x = n - 32;
        __m256i low = half, high = half;
        for (int k = 0; k < taps; k++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(in + k * stride + x)), w = _mm256_set1_epi16(weights[k]);
            low = _mm256_add_epi16(low, _mm256_mulhi_epu16(_mm256_unpacklo_epi8(zero, v), w));
            high = _mm256_add_epi16(high, _mm256_mulhi_epu16(_mm256_unpackhi_epi8(zero, v), w));
        }
        low = _mm256_packus_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8));
        _mm256_storeu_si256((__m256i *)(out + x), low);
    }
}

/* Horizontal pass: one row of `width` pixels (4 or more) from one row. For each pair of output pixels, `at` is the byte
offset of their first neighbours, `picks` the shuffle mask for the 16 bytes there, and `weights` the weights for each
further neighbour to the right. */
INLINE void across_taps(const uint8_t *in, const int32_t *at, const uint8_t *picks, const uint16_t *weights,
                        const int taps, int width, uint8_t *out)
{
    const __m256i half = _mm256_set1_epi16(128 + taps / 2);
    const __m128i close_up = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1);
    for (int x = 0; x < width; x += 4, at += 2, picks += 32) {
        const uint8_t *left = in + at[0], *right = in + at[1];
        __m256i sum = half, pick = _mm256_loadu_si256((const __m256i *)picks);
        for (int k = 0; k < taps; k++, left += 3, right += 3, weights += 16) {
            __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)left)),
                                                _mm_loadu_si128((const __m128i *)right), 1);
            __m256i w = _mm256_loadu_si256((const __m256i *)weights);
            sum = _mm256_add_epi16(sum, _mm256_mulhi_epu16(_mm256_shuffle_epi8(v, pick), w));
        }
        sum = _mm256_srli_epi16(sum, 8);
        __m128i four = _mm_packus_epi16(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        four = _mm_shuffle_epi8(four, close_up);
        uint8_t *to = out + 3 * (x > width - 4 ? width - 4 : x);
        uint32_t last = _mm_extract_epi32(four, 2);
        _mm_storel_epi64((__m128i *)to, four);
        memcpy(to + 8, &last, 4);
    }
}

/* Both with the usual numbers of taps known to the compiler, which then unrolls the loops over them. */
AVX2 static void down(const uint8_t *in, Py_ssize_t stride, int n, const uint16_t *weights, int taps, uint8_t *out)
{
    switch (taps) {
    case 2: down_taps(in, stride, n, weights, 2, out); break;
    case 3: down_taps(in, stride, n, weights, 3, out); break;
    case 4: down_taps(in, stride, n, weights, 4, out); break;
    case 5: down_taps(in, stride, n, weights, 5, out); break;
    default: down_taps(in, stride, n, weights, taps, out);
    }
}

AVX2 static void across(const uint8_t *in, const int32_t *at, const uint8_t *picks, const uint16_t *weights, int taps,
                        int width, uint8_t *out)
{
    switch (taps) {
    case 2: across_taps(in, at, picks, weights, 2, width, out); break;
    case 3: across_taps(in, at, picks, weights, 3, width, out); break;
    case 4: across_taps(in, at, picks, weights, 4, width, out); break;
    case 5: across_taps(in, at, picks, weights, 5, width, out); break;
    default: across_taps(in, at, picks, weights, taps, width, out);
    }
}

/* Whether all of `n` numbers are between 0 and `largest`. */
static int within(const int32_t *numbers, Py_ssize_t n, Py_ssize_t largest)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (numbers[i] < 0 || numbers[i] > largest)
            return 0;
    return 1;
}

static PyObject *scale(PyObject *module, PyObject *args)
{
    Py_buffer in, first, rows, at, picks, columns, out;
    Py_ssize_t begin, frame, stride;
    int frames, w, width;
    if (!PyArg_ParseTuple(args, "y*nnnii(y*y*)(y*y*y*)w*i", &in, &begin, &frame, &stride, &frames, &w, &first, &rows,
                          &at, &picks, &columns, &out, &width))
        return NULL;
    int height = first.len / 4, quads = (width + 3) / 4;
    int deep = height ? rows.len / (2 * height) : 0, wide = quads ? columns.len / (32 * quads) : 0;
    uint8_t *row = NULL;
    Py_ssize_t below = in.len - begin - (frames - 1) * frame - 3 * w;  /* bytes after the last frame's first row */
    if (frames < 1 || height < 1 || width < 4 || 3 * w < WIDEST_LOAD || deep < 1 || wide < 1 || at.len != 8 * quads ||
        picks.len != 32 * quads || out.len != (Py_ssize_t)frames * height * width * 3 || begin < 0 || frame < 0 ||
        stride < 1 || below < 0 || !within(first.buf, height, below / stride - deep + 1) ||
        !within(at.buf, 2 * quads, 3 * (w - wide)))
        PyErr_SetString(PyExc_ValueError, "the image, the output and the tables do not fit together");
    else if (!(row = malloc(3 * w + WIDEST_LOAD)))
        PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        uint8_t *to = out.buf;
        for (int t = 0; t < frames; t++)
            for (int y = 0; y < height; y++, to += 3 * width) {
                const uint8_t *from = (uint8_t *)in.buf + begin + t * frame + ((int32_t *)first.buf)[y] * stride;
                down(from, stride, 3 * w, (uint16_t *)rows.buf + deep * y, deep, row);
                across(row, at.buf, picks.buf, columns.buf, wide, width, to);
            }
        free(row);
        Py_END_ALLOW_THREADS
    }
    Py_buffer *held[] = {&in, &first, &rows, &at, &picks, &columns, &out};
    for (int i = 0; i < 7; i++)
        PyBuffer_Release(held[i]);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"scale", scale, METH_VARARGS, NULL}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "datamodules.clips._scale", NULL, -1, methods};

PyMODINIT_FUNC PyInit__scale(void)
{
    if (!__builtin_cpu_supports("avx2")) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return NULL;
    }
    return PyModule_Create(&module);
}
