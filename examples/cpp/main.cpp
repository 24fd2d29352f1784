/*
 * main.cpp - the layer level from C++11: handles in unique_ptr, failures as exceptions.
 */
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>
#include <quant/quant.h>

namespace
{
template <typename T, void (*destroy)(T *)> struct Destroy {
    void operator()(T *handle) const
    {
        destroy(handle);
    }
};
using Context = std::unique_ptr<qnt_context, Destroy<qnt_context, qnt_context_destroy>>;
using Recipe = std::unique_ptr<qnt_recipe, Destroy<qnt_recipe, qnt_recipe_destroy>>;
using Qlinear = std::unique_ptr<qnt_qlinear, Destroy<qnt_qlinear, qnt_qlinear_destroy>>;

void check(qnt_status status, const Context &context)
{
    if (status != QNT_OK)
        throw std::runtime_error(context ? qnt_context_message(context.get()) : qnt_status_text(status));
}

Context make_context()
{
    qnt_context *handle = nullptr;
    qnt_status status = qnt_context_create(nullptr, &handle);
    Context context(handle);
    check(status, context);
    return context;
}

Recipe parse(const Context &context, const char *text)
{
    qnt_recipe *handle = nullptr;
    check(qnt_recipe_parse(context.get(), text, &handle), context);
    return Recipe(handle);
}

Qlinear quantize(const Context &context, const Recipe &recipe, const qnt_layer &layer)
{
    qnt_qlinear *handle = nullptr;
    check(qnt_quantize(context.get(), recipe.get(), &layer, &handle), context);
    return Qlinear(handle);
}

void run()
{
    const std::size_t out = 64, in = 128;
    std::vector<float> weight(out * in), x(in, 1.0f), y(out);
    for (std::size_t i = 0; i < weight.size(); i++)
        weight[i] = 0.001f * static_cast<float>(i * 7919 % 2001) - 1.0f;

    Context context = make_context();
    qnt_layer layer = qnt_layer();
    layer.name = "example";
    layer.weight = qnt_matrix_f32(weight.data(), out, in);
    for (const char *text : {"rtn:bits=8,group_size=32", "rtn:bits=4,group_size=32", "rtn:bits=3,group_size=32"}) {
        Recipe recipe = parse(context, text);
        Qlinear q = quantize(context, recipe, layer);
        qnt_layer_report report = qnt_layer_report();
        check(qnt_report(q.get(), &report), context);
        check(qnt_forward(q.get(), qnt_matrix_f32(x.data(), 1, in), y.data()), context);
        std::printf("%-26s %.2f bits a weight, relative square error %.6f, first output %.4f\n",
                    qnt_recipe_text(recipe.get()), report.bits_per_weight, report.weight_error,
                    static_cast<double>(y[0]));
    }

    try {
        parse(context, "gptqq");
    } catch (const std::runtime_error &error) {
        std::printf("as expected: %s\n", error.what());
    }
}
} // namespace

int main()
{
    try {
        run();
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
